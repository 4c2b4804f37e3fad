"""Takes tensors out of a GGUF file by name; knows what is missing and what nobody took.

A family's loader is a walk over its parts that asks for each tensor once. Nothing is loaded half: `finish` raises
one error that lists every missing tensor, every wrong shape and every leftover.
"""

import itertools
import math
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from stepahead.backends.base import PLAIN, Backend, QuantMatrix, Tensor
from stepahead.errors import ModelFormatError, UnsupportedModelError
from stepahead.gguf import GGUFFile, QuantType
from stepahead.gguf.block_name import shown
from stepahead.models.late_matrix import LateMatrix

MAX_NAMES = 6  # of a list of names in an error message


class MatrixSource(Protocol):
    """Where the bytes of matrices come from."""

    def matrix(
        self, file: GGUFFile, name: str, parts: tuple[tuple[int, ...], ...]
    ) -> tuple[npt.NDArray[np.uint8], str, QuantType]:
        """The bytes of a tensor, uint8 with row_bytes in the last axis, their layout and type; `parts` are the shapes
        of the matrices that it is cut into, one below the other."""
        ...


class FileSource:
    """The files themselves."""

    def matrix(
        self, file: GGUFFile, name: str, parts: tuple[tuple[int, ...], ...]
    ) -> tuple[npt.NDArray[np.uint8], str, QuantType]:
        return file.data(name), PLAIN, file.tensors[name].type


FILES = FileSource()


class Weights:
    """A walk over the tensors of one file."""

    def __init__(self, file: GGUFFile, backend: Backend, source: MatrixSource = FILES) -> None:
        self.file = file
        self.nbytes = 0
        self._source = source
        self._backend = backend
        self._taken: set[str] = set()
        self._faults: list[str] = []

    def has(self, name: str) -> bool:
        return name in self.file.tensors

    def matrix(self, name: str, *shape: int) -> QuantMatrix:
        """(out, in) or (experts, out, in) to multiply with, in the file's type."""
        return self._parts(name, shape, (shape,))[0]

    def late_matrix(self, name: str, *shape: int) -> QuantMatrix:
        """To multiply with seldom: a LateMatrix where loading is copying."""
        if self._backend.own_memory is None:
            return self.matrix(name, *shape)
        if not self._take(name, shape):
            return None  # type: ignore[return-value]
        data, layout, type = self._source.matrix(self.file, name, (shape,))
        nbytes = self._backend.matrix_nbytes(type, shape)
        return LateMatrix(lambda: self._backend.load_matrix(data, type, shape, layout), type, shape, nbytes)

    def table(self, name: str, *shape: int) -> QuantMatrix:
        """(num, width) of which only rows are looked up: read where it lies in the file, whatever the source."""
        if not self._take(name, shape):
            return None  # type: ignore[return-value]  # finish() raises before anybody looks
        return self._backend.load_matrix(self.file.data(name), self.file.tensors[name].type, shape)

    def row_slices(self, name: str, heights: tuple[int, ...], width: int) -> tuple[QuantMatrix, ...]:
        """A fused matrix (sum of heights, width) as several, one below the other."""
        return self._parts(name, (sum(heights), width), tuple((height, width) for height in heights))

    def vector(self, name: str, width: int) -> Tensor:
        """(1, width) float32."""
        if not self._take(name, (width,)):
            return None  # type: ignore[return-value]
        return self._backend.load_vector(self.file.array(name))

    def optional_matrix(self, name: str, *shape: int) -> QuantMatrix | None:
        return self.matrix(name, *shape) if self.has(name) else None

    def optional_table(self, name: str, *shape: int) -> QuantMatrix | None:
        return self.table(name, *shape) if self.has(name) else None

    def optional_vector(self, name: str, width: int) -> Tensor | None:
        return self.vector(name, width) if self.has(name) else None

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor whose size no metadata states; (0, 0, 0) if it is missing, which matrix() reports."""
        return self.file.tensors[name].shape if self.has(name) else (0, 0, 0)

    def leave(self, names: Iterable[str]) -> None:
        """Known tensors that are not wanted this time."""
        self._taken.update(names)

    def finish(self) -> None:
        """Raise ModelFormatError for missing and misshapen tensors, UnsupportedModelError for leftovers."""
        if self._faults:
            raise ModelFormatError(f"{self.file.path}: {_some(self._faults)}")
        leftover = [name for name in self.file.tensors if name not in self._taken]
        if leftover:
            raise UnsupportedModelError(
                f"{self.file.path}: {len(leftover)} tensors have no place in this architecture: {_some(leftover)}"
            )

    def _parts(self, name: str, shape: tuple[int, ...], parts: tuple[tuple[int, ...], ...]) -> tuple[QuantMatrix, ...]:
        if not self._take(name, shape):
            return (None,) * len(parts)  # type: ignore[return-value]
        data, layout, type = self._source.matrix(self.file, name, parts)
        rows = data.reshape(-1, data.shape[-1])
        heights = [math.prod(part[:-1]) for part in parts]
        ends = itertools.accumulate(heights)
        return tuple(
            self._backend.load_matrix(rows[end - height : end], type, part, layout)
            for end, height, part in zip(ends, heights, parts, strict=True)
        )

    def _take(self, name: str, shape: tuple[int, ...]) -> bool:
        self._taken.add(name)
        info = self.file.tensors.get(name)
        if info is None:
            self._faults.append(f"missing tensor {name} {list(shape)}")
            return False
        if _squeezed(info.shape) != _squeezed(shape):
            self._faults.append(f"tensor {name} has shape {list(info.shape)}, expected {list(shape)}")
            return False
        self.nbytes += info.nbytes
        return True


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Writers may drop leading dimensions of 1."""
    start = 0
    while start < len(shape) - 1 and shape[start] == 1:
        start += 1
    return shape[start:]


def _some(names: list[str]) -> str:
    more = f" … and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(map(shown, names[:MAX_NAMES])) + more
