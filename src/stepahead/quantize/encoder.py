"""Numbers to blocks, by the native encoders: each block is searched for what leaves the least squared error.

Owns encode(). The same bytes for any number of threads and on every machine. Must not know: files, which tensor gets
which type, where importance comes from. `gguf.quantize` is the simple way, for tests and where there is no native code.
"""

import numpy as np
import numpy.typing as npt

from stepahead import _native
from stepahead.backends.cpu.threads import resolve_threads
from stepahead.errors import ConfigError
from stepahead.gguf import QuantType
from stepahead.gguf.block_quants import Bytes, Floats

ENCODED_TYPES = frozenset(known for known in QuantType if known.id in _native.ENCODED_TYPES)


def encode(
    values: npt.NDArray[np.floating],
    quant_type: QuantType,
    importance: npt.NDArray[np.floating] | None = None,
    threads: int | None = None,
) -> Bytes:
    """Numbers (…, row), any float dtype, to the bytes of a tensor, uint8 (…, row_bytes).

    importance: what a squared error in each column of the row counts for, (row,); only their ratios matter.
    threads: None for one a physical core. ConfigError: a type that is not in ENCODED_TYPES, a row that is not whole
    blocks, a value that is Inf, NaN or too large for the type, importance that is not (row,) finite numbers from 0.
    """
    if quant_type not in ENCODED_TYPES:
        known = ", ".join(sorted(known.name for known in ENCODED_TYPES))
        raise ConfigError(f"cannot encode {quant_type.name}; possible: {known}")
    if values.ndim == 0:
        raise ConfigError("encode takes rows, got a scalar")
    row = values.shape[-1]
    row_bytes = quant_type.row_bytes(row)
    with np.errstate(over="ignore"):  # a float64 beyond float32: said below
        rows = np.ascontiguousarray(values.reshape(-1, row), np.float32)
    weights = None if importance is None else _checked(importance, row)
    made, beyond = _native.encode(quant_type.id, rows, weights, resolve_threads(threads))
    if beyond >= 0:
        place = tuple(int(i) for i in np.unravel_index(beyond, values.shape))
        value = values[place]
        fault = "is too large for the type" if np.isfinite(value) else "is no number"
        raise ConfigError(f"cannot encode {quant_type.name}: the value {value} at {place} {fault}")
    return made.reshape(*values.shape[:-1], row_bytes)


def _checked(importance: npt.NDArray[np.floating], row: int) -> Floats:
    if importance.shape != (row,):
        raise ConfigError(f"importance of shape {importance.shape} for rows of {row}; give one number a column")
    with np.errstate(over="ignore"):
        weights = np.ascontiguousarray(importance, np.float32)
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        raise ConfigError(f"importance {importance[wrong[0]]} of column {wrong[0]} is not a finite number from 0 on")
    return weights
