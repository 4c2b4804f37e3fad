"""Simple quantisers: numbers to blocks, for tests and the demo model.

Each takes the smallest scale that covers its block and rounds to nearest; nothing is searched, no importance is
weighed. Owns quantize(). Must not know: files. The layouts are those described in `block_quants`.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from stepahead.errors import ConfigError
from stepahead.gguf.block_quants import Bytes, Floats
from stepahead.gguf.quants import CHUNK_ELEMENTS, QuantType


def quantize(values: npt.NDArray[np.floating], quant_type: QuantType) -> Bytes:
    """Numbers (…, row), any float dtype, to the bytes of a tensor, uint8 (…, row_bytes).

    F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K, Q6_K. ConfigError: another type, a row that is not whole blocks, a value
    that is not finite, or one so large that the type cannot hold it.
    """
    encode = _ENCODERS.get(quant_type)
    if encode is None:
        known = ", ".join(known.name for known in _ENCODERS)
        raise ConfigError(f"cannot quantize to {quant_type.name}; possible: {known}")
    if values.ndim == 0:
        raise ConfigError("quantize takes rows, got a scalar")
    row_bytes = quant_type.row_bytes(values.shape[-1])
    blocks = values.reshape(-1, quant_type.block_size)
    out = np.empty((len(blocks), quant_type.block_bytes), np.uint8)
    step = max(1, CHUNK_ELEMENTS // quant_type.block_size)
    try:
        with np.errstate(over="raise", invalid="raise"):
            for start in range(0, len(blocks), step):
                chunk = blocks[start : start + step].astype(np.float32)
                if not np.isfinite(chunk).all():
                    raise ConfigError(f"cannot quantize to {quant_type.name}: a value is Inf or NaN")
                out[start : start + step] = encode(chunk)
    except FloatingPointError:
        raise ConfigError(f"cannot quantize to {quant_type.name}: a value is too large for the type") from None
    return out.reshape(*values.shape[:-1], row_bytes)


def _bytes(values: npt.NDArray[np.generic]) -> Bytes:
    # Little-endian bytes of every row, whatever the host.
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return little.view(np.uint8).reshape(len(values), -1)


def _inverse(scale: Floats) -> Floats:
    # 1 / scale, and 0 where the scale is 0 (a block of zeros) or so small that 1 / scale overflows.
    tiny = np.abs(scale) < np.finfo(np.float32).tiny
    return np.where(tiny, np.float32(0), 1 / np.where(tiny, np.float32(1), scale))


def _round(values: Floats, low: int, high: int) -> npt.NDArray[np.uint8]:
    # To the nearest integer in [low, high], as a byte in two's complement.
    return np.rint(np.clip(values, low, high)).astype(np.int8).view(np.uint8)


def _pack(values: npt.NDArray[np.uint8], width: int) -> Bytes:
    # The inverse of block_quants.fields: (…, count, m) -> (…, m), row j into field j of every byte.
    shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
    packed: Bytes = np.bitwise_or.reduce(values << shifts, axis=-2)
    return packed


def _f32(x: Floats) -> Bytes:
    return _bytes(x)


def _f16(x: Floats) -> Bytes:
    return _bytes(x.astype(np.float16))


def _bf16(x: Floats) -> Bytes:
    bits = x.view(np.uint32)
    # Round to nearest, ties to even: add just under half, and the last kept bit.
    rounded = bits + (np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    if (rounded & np.uint32(0x7FFF) == np.uint32(0x7F80)).any():
        raise FloatingPointError("rounds to infinity")
    return _bytes(rounded.astype(np.uint16))


def _q8_0(x: Floats) -> Bytes:
    d = (np.abs(x).max(1, keepdims=True) / np.float32(127)).astype(np.float16)
    return np.hstack([_bytes(d), _round(x * _inverse(d.astype(np.float32)), -127, 127)])


def _q4_0(x: Floats) -> Bytes:
    # The element of largest magnitude gets code 0, the only one that reaches 8 steps.
    extreme = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1)
    d = (extreme / np.float32(-8)).astype(np.float16)
    q = _round(x * _inverse(d.astype(np.float32)) + np.float32(8), 0, 15)
    return np.hstack([_bytes(d), _pack(q.reshape(-1, 2, 16), 4)])


def _affine(x: Floats, levels: int) -> tuple[Bytes, npt.NDArray[np.uint8]]:
    # The 16 bytes before the codes of Q4_K and Q5_K, and codes (n, 8, 32) from 0 to levels.
    x = x.reshape(-1, 8, 32)
    minimum = np.maximum(-x.min(2), 0)
    step = (x.max(2).clip(0) + minimum) / np.float32(levels)
    d = (step.max(1, keepdims=True) / np.float32(63)).astype(np.float16)
    dmin = (minimum.max(1, keepdims=True) / np.float32(63)).astype(np.float16)
    d32, dmin32 = d.astype(np.float32), dmin.astype(np.float32)
    s = _round(step * _inverse(d32), 0, 63)
    m = _round(minimum * _inverse(dmin32), 0, 63)
    q = _round((x + (dmin32 * m)[..., None]) * _inverse(d32 * s)[..., None], 0, levels)
    first, last = slice(0, 4), slice(4, 8)
    packed = [
        s[:, first] | s[:, last] >> np.uint8(4) << np.uint8(6),
        m[:, first] | m[:, last] >> np.uint8(4) << np.uint8(6),
        s[:, last] & np.uint8(15) | m[:, last] << np.uint8(4),
    ]
    return np.hstack([_bytes(d), _bytes(dmin), *packed]), q


def _q4_k(x: Floats) -> Bytes:
    head, q = _affine(x, 15)
    return np.hstack([head, _pack(q.reshape(-1, 4, 2, 32), 4).reshape(-1, 128)])


def _q5_k(x: Floats) -> Bytes:
    head, q = _affine(x, 31)
    low = _pack(q.reshape(-1, 4, 2, 32) & np.uint8(15), 4).reshape(-1, 128)
    return np.hstack([head, _pack(q >> np.uint8(4), 1), low])


def _q6_k(x: Floats) -> Bytes:
    x = x.reshape(-1, 16, 16)
    step = np.abs(x).max(2) / np.float32(31)
    d = (step.max(1, keepdims=True) / np.float32(127)).astype(np.float16)
    d32 = d.astype(np.float32)
    scale = _round(step * _inverse(d32), 0, 127)
    q = (_round(x * _inverse(d32 * scale)[..., None], -32, 31) + np.uint8(32)).reshape(-1, 256)
    low = _pack(q.reshape(-1, 2, 2, 64) & np.uint8(15), 4).reshape(-1, 128)
    high = _pack(q.reshape(-1, 2, 4, 32) >> np.uint8(4), 2).reshape(-1, 64)
    return np.hstack([low, high, scale, _bytes(d)])


_ENCODERS: dict[QuantType, Callable[[Floats], Bytes]] = {
    QuantType.F32: _f32,
    QuantType.F16: _f16,
    QuantType.BF16: _bf16,
    QuantType.Q8_0: _q8_0,
    QuantType.Q4_0: _q4_0,
    QuantType.Q4_K: _q4_k,
    QuantType.Q5_K: _q5_k,
    QuantType.Q6_K: _q6_k,
}
