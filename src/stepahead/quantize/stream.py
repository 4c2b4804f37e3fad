"""A tensor of one type as the bytes of another, some rows at a time, and how far the numbers moved.

Memory is what one piece takes, however large the tensor is. Must not know: which type a tensor gets, files that are
written.
"""

import math
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from stepahead.errors import ConfigError, ModelFormatError
from stepahead.gguf import GGUFFile, QuantType, dequantize
from stepahead.gguf.block_quants import Bytes, Floats
from stepahead.gguf.progress import OnBytes
from stepahead.quantize.encoder import encode
from stepahead.quantize.plan import PlannedTensor

PIECE_ELEMENTS = 1 << 22
"""16 MB of float32, and half as much of bytes on either side."""

SAMPLE_ELEMENTS = 1 << 20
"""Of larger tensors the error is measured on whole rows spread evenly, at least so many numbers of them: decoding all
that was encoded would take longer than encoding it, and the figure moves by a part in a thousand."""


@dataclass(slots=True)
class ErrorSums:
    """Squares of one tensor, float64; the weighted ones by importance."""

    num_elements: int = 0
    squares: float = 0.0  # of the differences
    energy: float = 0.0  # of the numbers
    weighted_squares: float = 0.0
    weighted_energy: float = 0.0

    def add(self, values: Floats, made: Floats, weights: Floats | None) -> None:
        differences = (made - values).astype(np.float64)
        np.square(differences, out=differences)
        energies = np.square(values, dtype=np.float64)
        self.num_elements += values.size
        self.squares += float(differences.sum())
        self.energy += float(energies.sum())
        if weights is not None:
            self.weighted_squares += float((differences @ weights.astype(np.float64)).sum())
            self.weighted_energy += float((energies @ weights.astype(np.float64)).sum())

    @property
    def rmse(self) -> float:
        return math.sqrt(self.squares / self.num_elements) if self.num_elements else 0.0

    @property
    def relative(self) -> float:
        """The error's size, the numbers' being 1."""
        return math.sqrt(self.squares / self.energy) if self.energy > 0 else 0.0

    @property
    def relative_weighted(self) -> float | None:
        """The same, each column as important as the importance matrix says; None without one."""
        return math.sqrt(self.weighted_squares / self.weighted_energy) if self.weighted_energy > 0 else None


@dataclass(frozen=True, slots=True, eq=False)
class TensorStream:
    """One tensor's pieces, made when they are asked for."""

    file: GGUFFile
    planned: PlannedTensor
    sums: ErrorSums
    threads: int
    pool: Executor
    on_bytes: OnBytes  # is told of bytes read

    def __call__(self) -> Iterator[Bytes]:
        info = self.planned.info
        data = self.file.data(info.name).reshape(-1, info.row_bytes)
        step = max(1, PIECE_ELEMENTS // info.shape[-1])
        for first, end, weights in self._parts(len(data)):
            for start in range(first, end, step):
                stop = min(start + step, end)
                rows = data[start:stop]
                yield rows if self.planned.is_copied else self._encoded(rows, start, weights)
                self.file.release(info.name, start * info.row_bytes, stop * info.row_bytes)
                self.on_bytes(rows.nbytes)

    def _parts(self, num_rows: int) -> Iterator[tuple[int, int, Floats | None]]:
        """Rows whose columns are important alike, first to end: an expert's, or all."""
        if self.planned.squares is None:
            yield 0, num_rows, None
            return
        means = self.planned.squares.means()
        rows = num_rows // len(means)
        for part, weights in enumerate(means):
            yield part * rows, (part + 1) * rows, weights

    def _encoded(self, data: Bytes, start: int, weights: Floats | None) -> Bytes:
        values = self._decoded(data)
        try:
            made = encode(values, self.planned.type, weights, self.threads)
        except ConfigError as error:
            kind = ConfigError if np.isfinite(values).all() else ModelFormatError
            name = self.planned.info.name
            raise kind(f"{self.file.path}: tensor {name}, from row {start} on: {error}") from None
        self._measure(values, made, start, weights)
        return made

    def _decoded(self, data: Bytes) -> Floats:
        """Side by side: numpy lets go of the interpreter."""
        quant_type = self.planned.info.type
        if quant_type is QuantType.F32:
            return data.view("<f4")
        step = -(-len(data) // self.threads)
        parts = self.pool.map(lambda at: dequantize(data[at : at + step], quant_type), range(0, len(data), step))
        return np.concatenate(list(parts))

    def _measure(self, values: Floats, made: Bytes, start: int, weights: Floats | None) -> None:
        elements = math.prod(self.planned.info.shape)
        stride = max(1, elements // SAMPLE_ELEMENTS)
        rows = slice(-start % stride, None, stride)
        self.sums.add(values[rows], dequantize(np.ascontiguousarray(made[rows]), self.planned.type), weights)
