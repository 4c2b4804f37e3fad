"""Weights of the CPU backend: a view of the file's memory, and how types without kernels are used all the same.

A type that has kernels is handed to them as it is. Any other is decoded tile by tile at each use, by the decoder that
specifies it, and multiplied as F32: slow, correct, and the memory stays the file's. Must not know: models, engine.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from stepahead import _native
from stepahead.backends.base import PLAIN
from stepahead.backends.cpu.layouts import PANELS
from stepahead.errors import BackendError, ConfigError
from stepahead.gguf.quants import QuantType, dequantize

TILE_ELEMENTS = 1 << 20
"""Weights decoded at once: 4 MiB of float32, about what a core's caches hold."""


def has_kernels(type: QuantType) -> bool:
    """Whether such weights are multiplied as they are, and not decoded at each use."""
    return type.id in _native.NATIVE_TYPES


class Matrix:
    """(out, in) or (experts, out, in) weights over the bytes of a file, plain or in panels."""

    __slots__ = ("data", "layout", "native", "shape", "type")

    def __init__(
        self, data: npt.NDArray[np.uint8], type: QuantType, shape: tuple[int, ...], layout: str = PLAIN
    ) -> None:
        if data.dtype != np.uint8 or not data.flags.c_contiguous:
            raise BackendError(f"weights are C-contiguous uint8 arrays, not {data.dtype} with strides {data.strides}")
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise BackendError(f"a matrix is (out, in) or (experts, out, in), not {shape}")
        try:
            nbytes = type.nbytes(shape)
        except ConfigError as error:
            raise BackendError(f"{type.name} weights of shape {shape}: {error}") from None
        if data.nbytes != nbytes:
            raise BackendError(f"{type.name} weights of shape {shape} are {nbytes} bytes, got {data.nbytes}")
        if layout not in (PLAIN, PANELS):
            raise BackendError(f"layout {layout!r} is unknown; it is {PLAIN} or {PANELS}")
        self.shape = shape
        self.type = type
        self.layout = layout
        self.data = data.reshape(-1, type.row_bytes(shape[-1]))  # (experts * out, row_bytes)
        if layout == PANELS and not has_kernels(type):
            raise BackendError(f"{type.name} weights have no kernel for panels")
        flat, is_interleaved = data.reshape(-1), layout == PANELS
        self.native = _native.Matrix(flat, type.id, shape, is_interleaved) if has_kernels(type) else None

    @property
    def nbytes(self) -> int:
        return self.data.nbytes

    def write(self, rows: npt.NDArray[np.int32], data: npt.NDArray[np.uint8]) -> None:
        """Into plain weights, whose memory is read at each use."""
        assert self.layout == PLAIN and len(self.shape) == 2
        self.data[rows] = data

    def expert(self, index: int) -> "Matrix":
        """One expert's (out, in)."""
        _, out, width = self.shape
        return Matrix(self.data[index * out : (index + 1) * out], self.type, (out, width), self.layout)

    def rows(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Dequantised rows of plain weights."""
        assert self.layout == PLAIN
        return dequantize(self.data[ids], self.type)

    def decoded_tiles(self) -> Iterator[tuple[int, _native.Matrix]]:
        """The first output row of each tile of plain weights, and the tile as F32."""
        assert self.layout == PLAIN
        num_out, width = self.shape
        step = max(8, TILE_ELEMENTS // width)
        for start in range(0, num_out, step):
            tile = dequantize(self.data[start : start + step], self.type)
            yield start, _native.Matrix(tile.reshape(-1).view(np.uint8), QuantType.F32.id, tile.shape)
