"""Fields of the types that point into codebooks or pack trits: exact, as short codes of the few numbers that occur.

A codebook's points have few distinct coordinates: three magnitudes and a sign are 3 bits a weight, eight and a sign 4.
So these types need no tables in kernels, and on the GPU take as many bits as their coordinates; they are packed on the
host, some rows at a time.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from stepahead.backends.cuda.formats.format import LEVELS, Format
from stepahead.gguf import block_quants, iq_quants
from stepahead.gguf.block_quants import Bytes, Floats, fields
from stepahead.gguf.quants import QuantType

Bits = npt.NDArray[np.unsignedinteger]
ONE = np.array([1.0], "<f2").view(np.uint8)


def codebook_fields(blocks: Bytes, type: QuantType, form: Format) -> tuple[Bits, Bits, Bits]:
    """Codes (n, block_size), scales (n, groups) and d (n, 1) of blocks (n, block_bytes)."""
    if type == QuantType.NVFP4:
        return _nvfp4(blocks)
    if type == QuantType.IQ1_M:
        d, units = _iq1_m_d(blocks)
    else:
        d, units = _plain_d(blocks, D_AT.get(type, 0))
    decode: Callable[[Bytes], Floats] = getattr(
        iq_quants if type.name.startswith("IQ") else block_quants, type.name.lower()
    )
    numbers = decode(units).reshape(len(blocks), form.num_groups, form.group)  # under a d of 1
    scales = SCALES[type](blocks) if type in SCALES else np.ones((len(blocks), form.num_groups), np.uint8)
    levels = LEVELS[form.levels] - np.float32(form.offset)
    points = numbers / (scales[..., None] * np.float32(form.unit))  # without rounding: the products were exact
    codes = np.searchsorted(levels, points).astype(np.uint8)
    assert np.array_equal(levels[codes], points)
    return codes.reshape(len(blocks), -1), scales, d


def _plain_d(blocks: Bytes, at: int) -> tuple[Bits, Bytes]:
    units = blocks.copy()
    units[:, at : at + 2] = ONE
    return blocks[:, at : at + 2].copy().view("<u2"), units


def _iq1_m_d(blocks: Bytes) -> tuple[Bits, Bytes]:
    """Its d lies in the top nibbles of four words."""
    nibbles = np.arange(0, 16, 4, dtype=np.uint16)
    units = blocks.copy()
    words = units[:, 48:].view("<u2")
    d = np.bitwise_or.reduce(words >> 12 << nibbles, axis=1, keepdims=True)
    words[:] = words & np.uint16(0x0FFF) | (ONE.view("<u2") >> nibbles & np.uint16(15)) << np.uint16(12)
    return d, units


def _nvfp4(blocks: Bytes) -> tuple[Bits, Bits, Bits]:
    codes = fields(blocks[:, 4:].reshape(-1, 4, 8), 4).reshape(-1, 64)
    ones = blocks.copy()
    ones[:, 4:] = 0x22  # the code of 1, doubled 2
    scales = block_quants.nvfp4(ones).reshape(-1, 4, 16)[..., 0] * np.float32(0.5)
    return codes, scales.astype(np.float16).view(np.uint16), np.zeros((0, 0), np.uint16)


def _odd(whole: npt.NDArray[np.integer]) -> Bytes:
    return (2 * whole + 1).astype(np.uint8)


def _nibble_pairs(blocks: Bytes, at: int) -> Bytes:
    return fields(blocks[:, at:, None], 4).reshape(len(blocks), -1)


D_AT = {QuantType.TQ1_0: 52, QuantType.TQ2_0: 64}
# Whole numbers that multiply the points of a group.
SCALES: dict[QuantType, Callable[[Bytes], Bytes]] = {
    QuantType.IQ2_XXS: lambda b: _odd(b[:, 2:].copy().view("<u4").reshape(-1, 8, 2)[..., 1] >> 28),
    QuantType.IQ2_XS: lambda b: _odd(_nibble_pairs(b, 66)),
    QuantType.IQ2_S: lambda b: _odd(_nibble_pairs(b, 74)),
    QuantType.IQ3_XXS: lambda b: _odd(b[:, 66:].copy().view("<u4") >> 28),
    QuantType.IQ3_S: lambda b: _odd(_nibble_pairs(b, 106)),
    QuantType.IQ1_S: lambda b: _odd(b[:, 34:].copy().view("<u2") >> 12 & 7),
    QuantType.IQ1_M: lambda b: _odd(fields(b[:, 48:].copy().view("<u2")[..., None], 3, 4).reshape(-1, 16)),
}
