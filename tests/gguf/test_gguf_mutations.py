"""Random damage to a sound file: only ModelFormatError or UnsupportedModelError may come out, and in little memory.

The coverage-guided twin of this test is fuzz/fuzz_gguf.py.
"""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepahead.errors import ModelFormatError, UnsupportedModelError
from stepahead.gguf import GGUFFile, QuantType, TensorData, quantize, write_gguf

MEMORY_LIMIT = 64 << 20
CAREFULLY = settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The bytes of a small file with every kind of value, a place to put its mutants, and where its counts lie."""
    path = tmp_path_factory.mktemp("mutants") / "mutant.gguf"
    metadata = {
        "general.architecture": "step35",
        "general.alignment": 32,
        "flag": True,
        "number": 1e-5,
        "tokens": ["a", "bc", "def", ""],
        "heads": [64, 96],
        "pattern": [True, False],
    }
    values = np.linspace(-1, 1, 512, dtype=np.float32).reshape(2, 256)
    tensors = {
        t.name: TensorData(t, values.shape, quantize(values, t))
        for t in (QuantType.F32, QuantType.Q8_0, QuantType.Q4_K)
    }
    iq = np.arange(QuantType.IQ2_XS.block_bytes, dtype=np.uint8)
    write_gguf(path, metadata, {**tensors, "iq": TensorData(QuantType.IQ2_XS, (256,), iq)})
    return path.read_bytes(), path


HEADER_BYTES = 600  # more than the header of the file above


def survives(path, content):
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with GGUFFile.open(path) as file:
            for name, info in file.tensors.items():
                assert file.array(name).shape == info.shape
    except (ModelFormatError, UnsupportedModelError) as error:
        assert path.name in str(error)
        assert "\n" not in str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MEMORY_LIMIT


@CAREFULLY
@given(edits=st.lists(st.tuples(st.integers(0, HEADER_BYTES), st.integers(0, 255)), min_size=1, max_size=6))
def test_bytes_overwritten(sound, edits):
    content, path = bytearray(sound[0]), sound[1]
    for position, value in edits:
        content[position] = value
    survives(path, content)


@CAREFULLY
@given(
    position=st.integers(0, HEADER_BYTES),
    value=st.sampled_from([0, 1, 2**16, 2**31, 2**32 - 1, 2**32, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 1]),
    width=st.sampled_from(["<I", "<Q"]),
)
def test_counts_inflated(sound, position, value, width):
    content, path = bytearray(sound[0]), sound[1]
    struct.pack_into(width, content, position, value % (1 << 8 * struct.calcsize(width)))
    survives(path, content)


@CAREFULLY
@given(start=st.integers(0, HEADER_BYTES), removed=st.integers(0, 64), inserted=st.binary(max_size=16))
def test_bytes_moved(sound, start, removed, inserted):
    content, path = sound
    survives(path, content[:start] + inserted + content[start + removed :])


@CAREFULLY
@given(data=st.data())
def test_truncated(sound, data):
    content, path = sound
    survives(path, content[: data.draw(st.integers(0, len(content)))])


@CAREFULLY
@given(tail=st.binary(max_size=200))
def test_anything_after_the_magic(sound, tail):
    survives(sound[1], b"GGUF\3\0\0\0" + tail)
