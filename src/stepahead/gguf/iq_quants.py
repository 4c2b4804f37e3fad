"""Dequantisers of the IQ types, whose codes point into codebooks (`iq_grids`).

Same contract as `block_quants`: blocks (n, block_bytes) uint8 -> (n, block_size) float32, layout of one block in the
comment above the body. Must not know: QuantType, files, rows.
"""

import numpy as np
import numpy.typing as npt

from stepahead.gguf.block_quants import Bytes, Floats, fields, half
from stepahead.gguf.iq_grids import grid

# IQ4: sixteen levels, finer near zero.
IQ4_LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
# IQ1: every codebook point is shifted by an eighth, up or down.
IQ1_DELTA = np.float32(0.125)
# Seven stored sign bits of eight: the eighth makes the number of minus signs even. (128, 8) of ±1
_SEVEN_BITS = np.unpackbits(np.arange(128, dtype=np.uint8)[:, None], axis=1, bitorder="little")
EVEN_SIGNS = (1 - 2.0 * np.where(np.arange(8) < 7, _SEVEN_BITS, _SEVEN_BITS.sum(1, keepdims=True) % 2)).astype(
    np.float32
)

U16 = npt.NDArray[np.uint16]


def _signs(masks: Bytes) -> Floats:
    # Bit j of a mask set: element j is negative. (…, m) -> (…, m, 8) of ±1
    return np.where(np.unpackbits(masks[..., None], axis=-1, bitorder="little"), np.float32(-1), np.float32(1))


def _nibble_pairs(packed: Bytes) -> npt.NDArray[np.uint8]:
    # Byte i: element 2i low, 2i + 1 high. (n, m) -> (n, 2m)
    return fields(packed[..., None], 4).reshape(len(packed), -1)


def iq2_xxs(b: Bytes) -> Floats:
    # d half | 8 x (four u8 grid codes, u32: four 7-bit sign codes and, on top, a 4-bit scale)
    # y = d (1/2 + scale) / 4 * sign * grid, eight groups of 32
    words = b[:, 2:].view("<u4").reshape(-1, 8, 2)
    scale = half(b, 0) * (np.float32(0.5) + (words[..., 1] >> 28).astype(np.float32)) * np.float32(0.25)
    signs = EVEN_SIGNS[fields(words[..., 1, None], 7, 4)[..., 0]]
    points = grid("iq2xxs")[b[:, 2:].reshape(-1, 8, 8)[..., :4]]
    return (scale[..., None, None] * points * signs).reshape(-1, 256)


def iq2_xs(b: Bytes) -> Floats:
    # d half | 32 x u16 (9-bit grid code, 7-bit sign code) | 8 x two 4-bit scales;  y as in IQ2_XXS, groups of 16
    codes = b[:, 2:66].view("<u2")
    scale = half(b, 0) * (np.float32(0.5) + _nibble_pairs(b[:, 66:])) * np.float32(0.25)
    points: Floats = grid("iq2xs")[codes & np.uint16(511)] * EVEN_SIGNS[codes >> np.uint16(9)]
    return (scale[..., None] * points.reshape(-1, 16, 16)).reshape(-1, 256)


def iq2_s(b: Bytes) -> Floats:
    # d half | 32 x low 8 bits of grid codes | 32 x 8 signs | 8 x four upper bit pairs | 8 x two 4-bit scales
    # y as in IQ2_XXS, groups of 16
    codes = _extend(b[:, 2:34], fields(b[:, 66:74, None], 2).reshape(-1, 32))
    scale = half(b, 0) * (np.float32(0.5) + _nibble_pairs(b[:, 74:])) * np.float32(0.25)
    points = grid("iq2s")[codes] * _signs(b[:, 34:66])
    return (scale[..., None] * points.reshape(-1, 16, 16)).reshape(-1, 256)


def iq3_xxs(b: Bytes) -> Floats:
    # d half | 64 x u8 grid code of four elements | 8 x u32 of signs and scale as in IQ2_XXS
    # y = d (1/2 + scale) / 2 * sign * grid, eight groups of 32
    words = b[:, 66:].view("<u4")
    scale = half(b, 0) * (np.float32(0.5) + (words >> 28).astype(np.float32)) * np.float32(0.5)
    signs = EVEN_SIGNS[fields(words[..., None], 7, 4)[..., 0]]
    points = grid("iq3xxs")[b[:, 2:66]].reshape(-1, 8, 4, 8)
    return (scale[..., None, None] * points * signs).reshape(-1, 256)


def iq3_s(b: Bytes) -> Floats:
    # d half | 64 x low 8 bits of grid codes | 64 ninth bits | 32 x 8 signs | 4 x two 4-bit scales
    # y = d (1 + 2 scale) * sign * grid, eight groups of 32
    codes = _extend(b[:, 2:66], fields(b[:, 66:74, None], 1).reshape(-1, 64))
    scale = half(b, 0) * (1 + 2 * _nibble_pairs(b[:, 106:]))
    points = grid("iq3s")[codes].reshape(-1, 32, 8) * _signs(b[:, 74:106])
    return (scale[..., None] * points.reshape(-1, 8, 32)).reshape(-1, 256)


def iq1_s(b: Bytes) -> Floats:
    # d half | 32 x low 8 bits of grid codes | 8 x u16: four 3-bit code tops, 3-bit scale, sign of the shift
    # y = d (2 scale + 1) (grid ± 1/8), eight groups of 32
    high = b[:, 34:].view("<u2")
    codes = _extend(b[:, 2:34], fields(high[..., None], 3, 4).reshape(-1, 32))
    scale = half(b, 0) * (2 * (high >> 12 & 7) + 1)
    shift = np.where(high & 0x8000, -IQ1_DELTA, IQ1_DELTA)
    points = grid("iq1s")[codes].reshape(-1, 8, 32) + shift[..., None]
    return (scale[..., None] * points).reshape(-1, 256)


def iq1_m(b: Bytes) -> Floats:
    # 32 x low 8 bits of grid codes | 16 x two (3-bit code top, sign of the shift) | 4 x u16 of four 3-bit scales, whose
    # top nibbles are the half d, lowest first.  y = d (2 scale + 1) (grid ± 1/8), sixteen groups of 16, shifts of 8
    high, words = _nibble_pairs(b[:, 32:48]), b[:, 48:].view("<u2")
    d = np.bitwise_or.reduce(words >> 12 << np.arange(0, 16, 4, dtype=np.uint16), axis=1, keepdims=True)
    scale = d.view(np.float16).astype(np.float32) * (2 * fields(words[..., None], 3, 4).reshape(-1, 16) + 1)
    shift = np.where(high & 8, -IQ1_DELTA, IQ1_DELTA)
    points = grid("iq1s")[_extend(b[:, :32], high & np.uint8(7))] + shift[..., None]
    return (scale[..., None] * points.reshape(-1, 16, 16)).reshape(-1, 256)


def iq4_nl(b: Bytes) -> Floats:
    # d half | nibbles as in Q4_0;  y = d level[q]
    return half(b, 0) * IQ4_LEVELS[fields(b[:, 2:], 4).reshape(-1, 32)]


def iq4_xs(b: Bytes) -> Floats:
    # d half | u16 of eight upper scale bit pairs | 4 x two lower scale nibbles | 8 x 16 bytes of nibbles as in Q4_0
    # y = d (scale - 32) level[q], eight groups of 32
    scale = _nibble_pairs(b[:, 4:8]) | fields(b[:, 2:4].view("<u2"), 2)[..., 0] << np.uint8(4)
    q = fields(b[:, 8:].reshape(-1, 8, 16), 4).reshape(-1, 8, 32)
    return ((half(b, 0) * (scale.view(np.int8) - np.int8(32)))[..., None] * IQ4_LEVELS[q]).reshape(-1, 256)


def _extend(low: Bytes, high: Bytes) -> U16:
    # Grid codes wider than a byte: the upper bits come from elsewhere.
    return low | high.astype(np.uint16) << np.uint16(8)
