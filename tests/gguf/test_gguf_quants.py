"""Every type dequantises to the bits that the `gguf` package computes, on random bytes, Inf and NaN scales included."""

import numpy as np
import pytest

import gguf as oracle
from stepahead.errors import ConfigError
from stepahead.gguf import QuantType, dequantize
from stepahead.gguf.iq_grids import grid
from stepahead.gguf.quants import CHUNK_ELEMENTS

ALL = list(QuantType)


def oracle_type(quant_type: QuantType) -> oracle.GGMLQuantizationType:
    return oracle.GGMLQuantizationType[quant_type.name]


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all())


@pytest.mark.parametrize("quant_type", ALL, ids=lambda t: t.name)
def test_ids_and_sizes(quant_type):
    assert quant_type.id == quant_type.value == oracle_type(quant_type).value
    sizes = oracle.GGML_QUANT_SIZES[oracle_type(quant_type)]
    assert (quant_type.block_size, quant_type.block_bytes) == sizes
    assert QuantType(quant_type.id) is quant_type


@pytest.mark.parametrize("quant_type", ALL, ids=lambda t: t.name)
def test_dequantize_equals_the_oracle_bit_for_bit(quant_type):
    rng = np.random.default_rng(quant_type.id)
    data = rng.integers(0, 256, (3, 5, 12 * quant_type.block_bytes), dtype=np.uint8)
    found = dequantize(data, quant_type)
    with np.errstate(all="ignore"):
        expected = oracle.quants.dequantize(data, oracle_type(quant_type))
    assert found.dtype == np.float32
    assert found.shape == (3, 5, 12 * quant_type.block_size)
    assert same_bits(found, expected)


@pytest.mark.parametrize(
    "quant_type", [QuantType.F16, QuantType.BF16, QuantType.MXFP4, QuantType.NVFP4], ids=lambda t: t.name
)
def test_every_value_of_a_small_scale(quant_type):
    # All 65536 halves, all 256 byte scales: no random draw may miss a special one.
    if quant_type.block_size == 1:
        data = np.arange(65536, dtype="<u2").view(np.uint8)
    else:
        codes = np.arange(quant_type.block_bytes - 1, dtype=np.uint8) * 17
        data = np.array([[scale, *codes] for scale in range(256)], np.uint8)
        data[:, 1:4] = data[:, :1]
    with np.errstate(all="ignore"):
        expected = oracle.quants.dequantize(data, oracle_type(quant_type))
    assert same_bits(dequantize(data, quant_type), expected)


def test_dequantize_of_many_chunks_and_of_strided_rows():
    rng = np.random.default_rng(0)
    rows = CHUNK_ELEMENTS // 256 + 3
    data = rng.integers(0, 256, (rows, 2 * 110), dtype=np.uint8)
    whole = dequantize(data, QuantType.Q3_K)
    assert whole.shape == (rows, 512)
    assert same_bits(whole[-1], dequantize(data[-1], QuantType.Q3_K))
    assert same_bits(whole[::2], dequantize(data[::2], QuantType.Q3_K))
    assert dequantize(data[:0], QuantType.Q3_K).shape == (0, 512)


def test_dequantize_refuses_what_is_not_blocks():
    with pytest.raises(ConfigError, match=r"rows of 35 bytes are not whole Q8_0 blocks of 34"):
        dequantize(np.zeros((2, 35), np.uint8), QuantType.Q8_0)
    with pytest.raises(ConfigError, match=r"takes uint8 rows, got float32"):
        dequantize(np.zeros((2, 34), np.float32), QuantType.Q8_0)


def test_row_bytes_and_nbytes():
    assert QuantType.Q4_K.row_bytes(1280) == 5 * 144
    assert QuantType.Q4_K.nbytes((288, 1280, 4096)) == 288 * 1280 * 16 * 144
    for row in (100, 0, -256):
        with pytest.raises(ConfigError, match=f"a row of {row} elements is not a multiple of the 256 of a Q4_K block"):
            QuantType.Q4_K.row_bytes(row)


@pytest.mark.parametrize("name", ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"])
def test_grids_equal_the_oracle(name):
    source = getattr(oracle.quants, name)
    source.init_grid()
    points = grid(name.lower().replace("_", ""))
    assert np.array_equal(points, source.grid.reshape(source.grid_shape))
    assert not points.flags.writeable
