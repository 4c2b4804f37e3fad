"""Numbers of a checkpoint to numbers of a GGUF file, for rows of one tensor at a time.

Whatever is exact stays exact: a type that is wanted and had is copied; BF16, F16 and FP8 widen to float32, where scales
are multiplied and ones are added. What is rounded becomes what `stepahead quantize` makes of the same numbers, by the
same encoders. Must not know: files, names of tensors.
"""

import numpy as np
import numpy.typing as npt

from stepahead.errors import ConfigError, ModelFormatError
from stepahead.gguf import QuantType
from stepahead.gguf.block_quants import Bytes, Floats
from stepahead.quantize.encoder import encode

_SAME = {"F32": QuantType.F32, "F16": QuantType.F16, "BF16": QuantType.BF16}
# All bits of the exponent set: Inf or NaN.
_NOT_FINITE = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}


def _fp8_values() -> Floats:
    """The 256 values of E4M3 without infinities: sign, 4 bits of exponent (bias 7), 3 of mantissa; 0x7F is NaN."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, (code & 7).astype(np.float64)
    size = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(8 + mantissa, exponent - 10))
    values = np.where(code & 0x80, -size, size)
    values[code & 0x7F == 0x7F] = np.nan
    return values.astype(np.float32)


FP8_VALUES = _fp8_values()


def to_float32(raw: Bytes, dtype: str) -> Floats:
    """The numbers of a weight tensor's bytes; a new array, or the bytes themselves."""
    if dtype == "F8_E4M3":
        return FP8_VALUES[raw]
    if dtype == "BF16":
        return (raw.view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.view("<f4" if dtype == "F32" else "<f2").astype(np.float32)


def converted(raw: Bytes, dtype: str, row: int, factors: Floats | None, adds_one: bool, type: QuantType) -> Bytes:
    """Rows of `row` numbers each, as bytes of the file. factors: (num_rows, row) or what broadcasts to it.

    On one thread: the pieces of a tensor are what threads share.

    ModelFormatError: the checkpoint has a value that is Inf or NaN, or one that the type cannot hold.
    """
    if _SAME.get(dtype) is type and factors is None and not adds_one:
        _require_finite(raw, dtype)
        return raw
    values = to_float32(raw, dtype).reshape(-1, row)
    if factors is not None:
        values *= factors
    if adds_one:
        values += np.float32(1)
    try:
        return encode(values, type, threads=1).reshape(-1)
    except ConfigError:
        fault = "too large for the type" if np.isfinite(values).all() else "Inf or NaN"
        raise ModelFormatError(f"{type.name}: a value is {fault}") from None


def _require_finite(raw: Bytes, dtype: str) -> None:
    word, exponent = _NOT_FINITE[dtype]
    bits = raw.view(word)
    mask = bits.dtype.type(exponent)
    if (bits & mask == mask).any():
        raise ModelFormatError(f"{dtype}: a value is Inf or NaN")


def row_factors(
    scale: Floats, shape: tuple[int, ...], block: tuple[int, int] | None, rows: npt.NDArray[np.int64]
) -> Floats:
    """What the given rows of an FP8 tensor are multiplied by: (num_rows, 1) or (num_rows, row).

    scale: of the whole tensor, in the shape that the checkpoint has. block: rows and columns that share a scale; None:
    a scale for all, for each expert or for each row.
    """
    if block is None:
        per_scale = max(1, int(np.prod(shape[:-1])) // scale.size)
        return scale.reshape(-1)[rows // per_scale][:, None]
    height, width = shape[-2:]
    grid_rows = -(-height // block[0])
    at = rows // height * grid_rows + rows % height // block[0]
    return np.repeat(scale.reshape(-1, scale.shape[-1])[at], block[1], axis=1)[:, :width]
