"""Sealed reasoning: read by whoever sealed it, nothing to all others, never an error."""

import base64
import hashlib
import hmac
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepahead.server.reasoning_state import seal, unseal

KEY = b"key"


@given(st.text())
def test_what_was_sealed_is_read(text):
    state = seal(text, "m", KEY)
    assert state.startswith("sa1.")
    assert state.isascii()
    assert unseal(state, "m", KEY) == text
    assert unseal(state, "other", KEY) is None
    assert unseal(state, "m", b"other") is None


def test_every_changed_character_makes_it_nothing():
    state = seal("some reasoning", "m", KEY)
    for place in range(len(state)):
        changed = "A" if state[place] != "A" else "B"
        assert unseal(state[:place] + changed + state[place + 1 :], "m", KEY) is None


@given(st.one_of(st.text(), st.binary().map(lambda data: "sa1." + data.hex()), st.none(), st.integers()))
def test_anything_else_is_nothing(state):
    assert unseal(state, "m", KEY) is None


def packed(data: bytes) -> str:
    text = base64.urlsafe_b64encode(data).decode()
    mac = hmac.digest(KEY, text.encode(), hashlib.sha256)[:8]
    return f"sa1.{text}.{base64.urlsafe_b64encode(mac).decode()}"


@pytest.mark.parametrize(
    "data",
    [b"no zlib", zlib.compress(b"no json"), zlib.compress(b"[1]"), zlib.compress(b'{"model": "m", "text": 1}')],
)
def test_signed_nonsense_is_nothing(data):
    assert unseal(packed(data), "m", KEY) is None


def test_a_bomb_is_not_unpacked():
    bomb = zlib.compress(b'{"model": "m", "text": "' + b"a" * (32 << 20) + b'"}')
    assert len(bomb) < 1 << 16
    assert unseal(packed(bomb), "m", KEY) is None
