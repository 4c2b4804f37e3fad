"""What the tests of the CPU backend share: every backend that this machine has, and weights of every type."""

from collections.abc import Callable, Sequence

import numpy as np

from stepahead import _native
from stepahead.backends.base import AttentionRows
from stepahead.backends.cpu.ops import CpuBackend
from stepahead.errors import ConfigError
from stepahead.gguf import QuantType, dequantize, quantize
from support.random_codes import random_codes

NATIVE_TYPES = [type for type in QuantType if type.id in _native.NATIVE_TYPES]
FLOAT_TYPES = [type for type in NATIVE_TYPES if type.block_size == 1]
INT8_TYPES = [type for type in NATIVE_TYPES if type.block_size > 1]
DECODED_TYPES = [type for type in QuantType if type.id not in _native.NATIVE_TYPES]

Result = np.ndarray | Sequence[np.ndarray]


def make_backend(threads: int, isa: str) -> CpuBackend:
    backend = CpuBackend(threads=threads, isa=isa)
    backend._context.fill_with_nan(True)  # an element that no kernel writes shows
    return backend


# Scalar on one thread first: it is what the others must equal.
BACKENDS = [make_backend(1, "scalar"), make_backend(3, "scalar")] + [
    make_backend(threads, isa) for isa in _native.available_isas() if isa != "scalar" for threads in (1, 2, 3, 5)
]
BEST = make_backend(2, _native.available_isas()[0])


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def assert_same_bits(actual: np.ndarray, expected: np.ndarray, message: str = "") -> None:
    """Bit for bit, NaN payloads apart."""
    assert actual.shape == expected.shape
    if actual.dtype != np.float32:
        assert np.array_equal(actual, expected), message
        return
    same = (actual.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(actual) & np.isnan(expected))
    assert same.all(), f"{message} differ at {np.argwhere(~same)[:5].tolist()} of {actual.shape}"


def on_all(compute: Callable[[CpuBackend], Result]) -> Result:
    """Contracts I7 and I8: the same bits from every instruction set and thread count. Returns them."""
    results = []
    for backend in BACKENDS:
        result = compute(backend)
        arrays = [result] if isinstance(result, np.ndarray) else result
        results.append([array.copy() for array in arrays])
        for actual, expected in zip(results[-1], results[0], strict=True):
            assert_same_bits(actual, expected, str(backend.describe()))
    return results[0][0] if isinstance(result, np.ndarray) else results[0]


def rows_alone(compute: Callable[[CpuBackend, slice], np.ndarray], num_rows: int) -> None:
    """Contract I2: each row by itself, and each batch of the first 1 to num_rows, has the bits of the whole."""
    for backend in (BACKENDS[0], BEST):
        whole = compute(backend, slice(0, num_rows)).copy()
        for row in range(num_rows):
            assert_same_bits(compute(backend, slice(row, row + 1)), whole[row : row + 1], f"row {row} alone")
            assert_same_bits(compute(backend, slice(0, row + 1)), whole[: row + 1], f"{row + 1} rows")


def random_bytes(rng: np.random.Generator, type: QuantType, shape: tuple[int, ...]) -> np.ndarray:
    """Bytes of any type, every bit pattern of them, that decode to finite numbers of moderate size."""
    num_blocks = int(np.prod(shape)) // type.block_size
    found = [np.empty((0, type.block_bytes), np.uint8)]
    while sum(map(len, found)) < num_blocks:
        blocks = rng.integers(0, 256, (4 * num_blocks + 64, type.block_bytes), np.uint8)
        size = np.abs(dequantize(blocks, type)).max(axis=1)
        found.append(blocks[(size < 8.0) & (size > 2.0**-10)])
    return np.concatenate(found)[:num_blocks].reshape(-1, type.row_bytes(shape[-1]))


def weights(rng: np.random.Generator, type: QuantType, shape: tuple[int, ...]) -> np.ndarray:
    """Bytes of weights of about 1 / sqrt(in), quantised where a quantiser exists."""
    if type in DECODED_TYPES:
        return random_bytes(rng, type, shape)
    try:
        data = quantize(normal(rng, *shape) / np.float32(np.sqrt(shape[-1])), type)
    except ConfigError:  # no quantiser of ours
        data = random_codes(rng, type, shape, shape[-1] ** -0.5)
    return data.reshape(-1, type.row_bytes(shape[-1]))


def attention_rows(
    positions: Sequence[int],
    first_keys: Sequence[int],
    sequences: Sequence[int],
    block_tables: Sequence[Sequence[int]],
) -> AttentionRows:
    tables = np.array(block_tables, np.int32)
    at = [tables[s, p // 64] * 64 + p % 64 for p, s in zip(positions, sequences, strict=True)]
    arrays = [np.array(values, np.int32) for values in (positions, first_keys, sequences)]
    return AttentionRows(*arrays, block_tables=tables, slots=np.array(at, np.int32))
