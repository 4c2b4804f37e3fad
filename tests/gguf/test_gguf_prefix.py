"""Headers from the first bytes of a file: enough of them or not, never a wrong header."""

import contextlib
from pathlib import Path

import numpy as np
import pytest

from stepahead.errors import ModelFormatError, UnsupportedModelError
from stepahead.gguf import GGUFFile
from stepahead.gguf.prefix import read_prefix


@pytest.fixture(scope="module")
def data(model_path) -> bytes:
    return model_path("f32").read_bytes()


def test_any_prefix_gives_the_header_or_none(data, model_path):
    with GGUFFile.open(model_path("f32")) as file:
        whole = dict(file.tensors)
        end = min(info.offset for info in whole.values())
    first = None
    for length in sorted([*range(0, end, 37), *range(end - 40, end + 40)]):
        header = read_prefix(data[:length], len(data), Path("m.gguf"))
        if header is None:
            assert first is None, f"{length} bytes are too few, {first} were enough"
            continue
        first = first or length
        assert header.tensors == whole
    assert first is not None
    assert first <= end


def test_a_whole_file_that_is_damaged_is_a_fault(data):
    with pytest.raises(ModelFormatError):
        read_prefix(data[:1000], 1000, Path("m.gguf"))


def test_what_is_no_gguf_is_a_fault_at_once():
    with pytest.raises(ModelFormatError, match="not a GGUF file"):
        read_prefix(b"<!doctype html>" * 100, 1 << 40, Path("m.gguf"))
    with pytest.raises(UnsupportedModelError, match="version 9"):
        read_prefix(b"GGUF" + (9).to_bytes(4, "little") + bytes(100), 1 << 40, Path("m.gguf"))


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_after_the_magic_never_hang_or_crash(seed):
    noise = np.random.default_rng(seed).integers(0, 256, 4096, np.uint8).tobytes()
    head = b"GGUF" + (3).to_bytes(4, "little") + (5).to_bytes(8, "little") + (5).to_bytes(8, "little")
    with contextlib.suppress(UnsupportedModelError):
        assert read_prefix(head + noise, 1 << 40, Path("m.gguf")) is None
