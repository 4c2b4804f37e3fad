"""How deep a request may draft."""

import pytest

from stepahead.engine.params import Speculation
from stepahead.errors import RequestError
from stepahead.models.model import DraftSpec
from stepahead.speculative.policy import resolve_depth

THREE = DraftSpec(3, (6, 7, 8), 16)
ONE = DraftSpec(1, (6,), 16, is_recurrent=True, max_depth=8)


@pytest.mark.parametrize(
    ("mode", "depth", "draft", "expected"),
    [
        ("off", None, THREE, 0),
        ("off", 9, THREE, 0),
        ("auto", None, THREE, 1),
        ("auto", 2, THREE, 2),
        ("auto", 0, THREE, 0),
        ("auto", 3, None, 0),
        ("auto", None, None, 0),
        ("mtp", None, THREE, 3),
        ("mtp", 3, THREE, 3),
        ("mtp", 0, THREE, 0),
        ("mtp", None, ONE, 1),
        ("mtp", 8, ONE, 8),
        ("copy", None, None, 15),
        ("copy", None, THREE, 15),
        ("copy", 15, ONE, 15),
        ("copy", 0, None, 0),
    ],
)
def test_depth(mode: str, depth: int | None, draft: DraftSpec | None, expected: int) -> None:
    assert resolve_depth(Speculation(mode=mode, depth=depth), draft) == expected


@pytest.mark.parametrize("mode", ["auto", "mtp"])
def test_beyond_the_limit_is_refused_by_name(mode: str) -> None:
    with pytest.raises(RequestError, match=r"depth=4 .* 3 MTP heads .* 1 to 3"):
        resolve_depth(Speculation(mode=mode, depth=4), THREE)
    with pytest.raises(RequestError, match=r"depth=9 .* one MTP head.* 1 to 8"):
        resolve_depth(Speculation(mode=mode, depth=9), ONE)


def test_mtp_needs_heads() -> None:
    with pytest.raises(RequestError, match="needs MTP heads"):
        resolve_depth(Speculation(mode="mtp"), None)


def test_copies_have_a_limit_of_their_own() -> None:
    with pytest.raises(RequestError, match=r"depth=16 .* 1 to 15 .* 0"):
        resolve_depth(Speculation(mode="copy", depth=16), THREE)
