"""The integers and scales of quantised rows, taken out of GGUF's blocks: what packing neither changes nor rounds.

Everything is a bit pattern: codes and bytes as uint8, halves as uint16. `values` is what they mean, with the roundings
of `gguf.dequantize`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from stepahead.backends.cuda.formats.codebooks import codebook_fields
from stepahead.backends.cuda.formats.format import BLOCK, FORMATS, LEVELS, Format, Mins, Scales
from stepahead.gguf.block_quants import Bytes, Floats, fields
from stepahead.gguf.quants import QuantType

Bits = npt.NDArray[np.unsignedinteger]
EMPTY = np.zeros((0, 0), np.uint8)


def _empty() -> Bits:
    return EMPTY


@dataclass(frozen=True, slots=True, eq=False)
class Fields:
    """Of rows: codes (rows, K); scales and mins (rows, K / group), together where they are nibbles; d, dmin
    (rows, K / 256). What a type has not is EMPTY."""

    codes: Bytes
    scales: Bits = field(default_factory=_empty)
    mins: Bits = field(default_factory=_empty)
    d: Bits = field(default_factory=_empty)
    dmin: Bits = field(default_factory=_empty)


def fields_of(data: Bytes, type: QuantType) -> Fields:
    """data: (rows, row_bytes) of a type in FORMATS."""
    blocks = data.reshape(-1, type.block_bytes)
    found = _READERS[type](blocks) if type in _READERS else _of_codebook(blocks, type)
    return Fields(*(np.ascontiguousarray(part).reshape(len(data), -1) if part.size else EMPTY for part in found))


def values(found: Fields, form: Format) -> Floats:
    """(rows, K) float32."""
    rows, width = found.codes.shape
    levels = LEVELS[form.levels][found.codes] - np.float32(form.offset)
    weights = levels.reshape(rows, -1, form.group)
    with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale may be Inf or NaN
        scales, mins = _scales(found, form, weights.shape[1]), _mins(found, form, weights.shape[1])
        result = scales[..., None] * weights
        if form.mins == Mins.HALF:
            result = result + mins[..., None]
        elif form.mins == Mins.INTEGERS:
            result = result - mins[..., None]
    scaled: Floats = result.reshape(rows, width)
    return scaled


def _scales(found: Fields, form: Format, num_groups: int) -> Floats:
    if form.scales == Scales.HALF:
        return found.scales.view(np.float16).astype(np.float32)
    if form.scales == Scales.EXPONENT:
        return np.ldexp(np.float32(1), found.scales.astype(np.int32) - 128)
    d = np.repeat(_half(found.d), BLOCK // form.group, axis=1)[:, :num_groups] * np.float32(form.unit)
    if form.scales == Scales.NONE:
        return d
    if form.scales == Scales.NIBBLES:
        return d * (found.scales & 15).astype(np.float32)
    return d * (found.scales.view(np.int8) if form.scales == Scales.SIGNED else found.scales).astype(np.float32)


def _mins(found: Fields, form: Format, num_groups: int) -> Floats:
    if form.mins == Mins.NONE:
        return np.zeros((len(found.codes), num_groups), np.float32)
    if form.mins == Mins.HALF:
        return _half(found.mins)
    whole = found.scales >> 4 if form.scales == Scales.NIBBLES else found.mins
    return np.repeat(_half(found.dmin), BLOCK // form.group, axis=1) * whole.astype(np.float32)


def _half(bits: Bits) -> Floats:
    return bits.view(np.float16).astype(np.float32)


# --- one reader a type: blocks (n, block_bytes) -> codes, scales, mins, d, dmin; layouts as in gguf/block_quants.py ---

Parts = tuple[Bits, Bits, Bits, Bits, Bits]


def _word(b: Bytes, at: int) -> Bits:
    return b[:, at : at + 2].view("<u2")


def _nibbles(b: Bytes, at: int, width: int) -> Bytes:
    """Rows of 2 * width codes: low nibbles, then high ones, of every `width` bytes from `at` on."""
    return fields(b[:, at:].reshape(len(b), -1, width), 4).reshape(len(b), -1)


def _five(b: Bytes, at: int) -> Bytes:
    return _nibbles(b, at + 4, 16) | fields(b[:, at : at + 4, None], 1).reshape(-1, 32) << np.uint8(4)


def _eight_scales(b: Bytes) -> tuple[Bytes, Bytes]:
    s, m, tail = b[:, 4:8], b[:, 8:12], b[:, 12:16]
    scales = np.concatenate([s & 63, (tail & 15) | (s >> 2 & 48)], axis=1)
    return scales, np.concatenate([m & 63, (tail >> 4) | (m >> 2 & 48)], axis=1)


def _q4_0(b: Bytes) -> Parts:
    return _nibbles(b, 2, 16), _word(b, 0), EMPTY, EMPTY, EMPTY


def _q4_1(b: Bytes) -> Parts:
    return _nibbles(b, 4, 16), _word(b, 0), _word(b, 2), EMPTY, EMPTY


def _q5_0(b: Bytes) -> Parts:
    return _five(b, 2), _word(b, 0), EMPTY, EMPTY, EMPTY


def _q5_1(b: Bytes) -> Parts:
    return _five(b, 4), _word(b, 0), _word(b, 2), EMPTY, EMPTY


def _q8_0(b: Bytes) -> Parts:
    return b[:, 2:] ^ np.uint8(128), _word(b, 0), EMPTY, EMPTY, EMPTY


def _pairs(b: Bytes, at: int) -> Bytes:
    """256 codes of 2 bits in 64 bytes."""
    return fields(b[:, at : at + 64].reshape(-1, 2, 32), 2).reshape(-1, 256)


def _q2_k(b: Bytes) -> Parts:
    return _pairs(b, 16), b[:, :16], EMPTY, _word(b, 80), _word(b, 82)


def _q3_k(b: Bytes) -> Parts:
    low, high = fields(b[:, 96:104], 4).reshape(-1, 16), fields(b[:, 104:108], 2).reshape(-1, 16)
    scales = (low | high << np.uint8(4)) - np.uint8(32)
    codes = _pairs(b, 32) | fields(b[:, :32], 1).reshape(-1, 256) << np.uint8(2)
    return codes, scales, EMPTY, _word(b, 108), EMPTY


def _q4_k(b: Bytes) -> Parts:
    scales, mins = _eight_scales(b)
    return _nibbles(b, 16, 32), scales, mins, _word(b, 0), _word(b, 2)


def _q5_k(b: Bytes) -> Parts:
    scales, mins = _eight_scales(b)
    high = fields(b[:, 16:48], 1).reshape(-1, 256) << np.uint8(4)
    return _nibbles(b, 48, 32) | high, scales, mins, _word(b, 0), _word(b, 2)


def _q6_k(b: Bytes) -> Parts:
    low = fields(b[:, :128].reshape(-1, 2, 64), 4).reshape(-1, 256)
    codes = low | fields(b[:, 128:192].reshape(-1, 2, 32), 2).reshape(-1, 256) << np.uint8(4)
    return codes, b[:, 192:208], EMPTY, _word(b, 208), EMPTY


def _iq4_xs(b: Bytes) -> Parts:
    low = fields(b[:, 4:8, None], 4).reshape(-1, 8)
    scales = (low | fields(b[:, 2:4].view("<u2"), 2)[..., 0] << np.uint8(4)) - np.uint8(32)
    return _nibbles(b, 8, 16), scales, EMPTY, _word(b, 0), EMPTY


def _mxfp4(b: Bytes) -> Parts:
    return _nibbles(b, 1, 16), b[:, :1], EMPTY, EMPTY, EMPTY


def _of_codebook(b: Bytes, type: QuantType) -> Parts:
    codes, scales, d = codebook_fields(b, type, FORMATS[type])
    return codes, scales if FORMATS[type].scale_words else EMPTY, EMPTY, d, EMPTY


_READERS: dict[QuantType, Callable[[Bytes], Parts]] = {
    QuantType.Q4_0: _q4_0,
    QuantType.Q4_1: _q4_1,
    QuantType.Q5_0: _q5_0,
    QuantType.Q5_1: _q5_1,
    QuantType.Q8_0: _q8_0,
    QuantType.Q2_K: _q2_k,
    QuantType.Q3_K: _q3_k,
    QuantType.Q4_K: _q4_k,
    QuantType.Q5_K: _q5_k,
    QuantType.Q6_K: _q6_k,
    QuantType.IQ4_NL: _q4_0,
    QuantType.IQ4_XS: _iq4_xs,
    QuantType.MXFP4: _mxfp4,
}
