"""ggml's encoders, which llama.cpp's quantiser calls, bound with ctypes to the library in the xllamacpp wheel.

That wheel has no quantiser of whole files: what reads, decodes and writes around these encoders is ours.
"""

import ctypes as c
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.llama import shared_library
from stepahead.gguf import QuantType

PART_ELEMENTS = 1 << 16
"""Of a thread at once; llama.cpp gives out 16,384, but from C++."""


@cache
def _encoder() -> Any:
    encode = shared_library().ggml_quantize_chunk
    encode.restype = c.c_size_t
    encode.argtypes = [c.c_int, c.c_void_p, c.c_void_p, c.c_int64, c.c_int64, c.c_int64, c.c_void_p]
    return encode


def encode(
    values: npt.NDArray[np.floating],
    quant_type: QuantType,
    importance: npt.NDArray[np.floating] | None = None,
    threads: int | None = None,
) -> npt.NDArray[np.uint8]:
    """As stepahead.quantize.encoder.encode, by ggml."""
    run, row = _encoder(), values.shape[-1]
    rows = np.ascontiguousarray(values.reshape(-1, row), np.float32)
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
    made = np.empty((len(rows), quant_type.row_bytes(row)), np.uint8)
    step = max(1, PART_ELEMENTS // row)

    def part(start: int) -> None:
        count = min(step, len(rows) - start)
        address = None if weights is None else weights.ctypes.data
        run(quant_type.id, rows.ctypes.data, made.ctypes.data, start * row, count, row, address)

    with ThreadPoolExecutor(threads or 1) as pool:
        list(pool.map(part, range(0, len(rows), step)))
    return made.reshape(*values.shape[:-1], -1)
