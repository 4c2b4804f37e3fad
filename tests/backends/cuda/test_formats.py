"""Packing loses nothing: integers, scales and the numbers they mean are those of the file."""

import numpy as np
import pytest

pytest.importorskip("triton")

from stepahead.backends.cuda.formats.fields import Fields, fields_of, values
from stepahead.backends.cuda.formats.format import BLOCK, FORMATS
from stepahead.backends.cuda.formats.pack import pack, record_grid, unpack
from stepahead.backends.cuda.formats.source import SOURCES
from stepahead.gguf.quants import QuantType, dequantize

PARTS = ("codes", "scales", "mins", "d", "dmin")


def random_rows(type: QuantType, rows: int, width: int, seed: int = 0) -> np.ndarray:
    """Random bytes: every code and scale occurs, Inf and NaN among them."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (rows, type.row_bytes(width)), np.uint8)


def width_of(type: QuantType) -> int:
    return {256: 512, 64: 64 * 5, 32: 32 * 11}[type.block_size]


@pytest.mark.parametrize("type", FORMATS, ids=lambda type: type.name)
def test_fields_mean_the_numbers_of_the_file(type: QuantType) -> None:
    data = random_rows(type, 300, width_of(type))
    expected = dequantize(data, type)
    np.testing.assert_array_equal(values(fields_of(data, type), FORMATS[type]), expected)


@pytest.mark.parametrize("type", FORMATS, ids=lambda type: type.name)
def test_records_hold_the_fields(type: QuantType) -> None:
    data, form = random_rows(type, 21, width_of(type)), FORMATS[type]
    found = fields_of(data, type)
    words = pack(found, form)
    assert words.shape == (*record_grid(found.codes.shape), form.record_words)
    again = unpack(words, form, found.codes.shape)
    for part in PARTS:
        np.testing.assert_array_equal(getattr(again, part), getattr(found, part), err_msg=part)


@pytest.mark.parametrize("type", FORMATS, ids=lambda type: type.name)
def test_padding_has_scales_of_zero(type: QuantType) -> None:
    form, width = FORMATS[type], width_of(type)
    ones = np.full((3, type.row_bytes(width)), 255, np.uint8)
    words = pack(fields_of(ones, type), form)
    tiles, blocks = record_grid((3, width))
    whole: Fields = unpack(words, form, (tiles * 16, blocks * BLOCK))
    scales = whole.scales if whole.scales.size else whole.d
    per_row = scales.shape[1] * width // (blocks * BLOCK)
    assert not scales[3:].any() if not whole.d.size else not whole.d[3:].any()
    assert whole.d.size or not scales[:, per_row:].any()


def test_a_pair_stands_where_one_mask_finds_it() -> None:
    """Bits of the layout itself, written down once more: kernels rely on them."""
    codes = np.zeros((16, 256), np.uint8)
    codes[2, 64 * 3 + 2 * 17 + 1] = 0b110101
    words = pack(Fields(codes, np.zeros((16, 16), np.uint8), d=np.zeros((16, 1), np.uint16)), FORMATS[QuantType.Q6_K])
    found = {int(at): int(words[0, 0, at]) for at in np.flatnonzero(words)}
    assert found == {2 * 32 + 17: 0b0101 << (4 * 3 + 16), 16 * 32 + 2 * 16 + 1: 0b11 << (2 * (4 * 1 + 3) + 16)}


@pytest.mark.parametrize("type", FORMATS, ids=lambda type: type.name)
def test_a_record_is_aligned_and_hardly_larger_than_the_file(type: QuantType) -> None:
    form = FORMATS[type]
    assert form.record_words * 4 % 32 == 0
    if type in SOURCES:  # of codebooks, the coordinates take more than the codes
        assert form.record_words * 4 <= 1.04 * type.nbytes((16, 256))
    else:
        assert form.record_words * 4 <= 16 * (160 if form.code_bits == 4 else 114)
