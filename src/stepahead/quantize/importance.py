"""Importance matrices: how much each input column of each matrix of a model matters, and their files.

What counts is the mean of a column's squared inputs over a text. The file is the GGUF form that llama.cpp b11549 reads
and writes: general.type "imatrix", and for each matrix NAME.in_sum2, the sums of squares, and NAME.counts, how many
inputs went into them, a row for each expert. Must not know: models, how inputs are observed, types of tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stepahead.errors import ModelFormatError
from stepahead.gguf import GGUFFile, QuantType, TypedValue, ValueType, write_gguf
from stepahead.gguf.block_quants import Floats

SUMS, COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True, slots=True, eq=False)
class InputSquares:
    """Of one matrix. A matrix that is no experts' has one row."""

    sums: npt.NDArray[np.float64]  # (num_experts, row)
    counts: npt.NDArray[np.int64]  # (num_experts,)

    def means(self) -> Floats:
        """(num_experts, row); ones for an expert that no input reached: nothing is known of it."""
        counts = self.counts[:, None]
        known = (counts > 0) & (self.sums.sum(1, keepdims=True) > 0)
        means = np.where(known, self.sums / np.maximum(counts, 1), 1.0)
        return means.astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class ImportanceMatrix:
    """squares: by tensor name. datasets: where the texts came from; num_chunks texts of chunk_size tokens."""

    squares: Mapping[str, InputSquares]
    datasets: tuple[str, ...] = ()
    num_chunks: int = 0
    chunk_size: int = 0
    path: Path | None = field(default=None, kw_only=True)

    def write(self, path: Path) -> None:
        """As a GGUF file, which appears complete or not at all."""
        u32 = ValueType.U32
        metadata = {
            "general.type": "imatrix",
            "imatrix.datasets": TypedValue(ValueType.STRING, list(self.datasets)),
            "imatrix.chunk_count": TypedValue(u32, self.num_chunks),
            "imatrix.chunk_size": TypedValue(u32, self.chunk_size),
        }
        tensors = {}
        for name, squares in sorted(self.squares.items()):
            tensors[f"{name}{SUMS}"] = squares.sums.astype(np.float32)
            tensors[f"{name}{COUNTS}"] = squares.counts.astype(np.float32)[:, None]
        write_gguf(path, metadata, tensors)

    @classmethod
    def read(cls, path: Path) -> "ImportanceMatrix":
        """Raises ModelFormatError for a file that is none, or not a sound one."""
        with GGUFFile.open(path) as file:
            names = [name.removesuffix(SUMS) for name in file.tensors if name.endswith(SUMS)]
            if not names:
                raise ModelFormatError(
                    f"{path}: has no tensor NAME{SUMS}, so it is no importance matrix; `stepahead imatrix` makes one"
                )
            return cls(
                {name: _squares(file, name) for name in names},
                tuple(file.get_array("imatrix.datasets", [], kind=str)),
                file.get_int("imatrix.chunk_count", 0),
                file.get_int("imatrix.chunk_size", 0),
                path=Path(path),
            )


def _squares(file: GGUFFile, name: str) -> InputSquares:
    for suffix in (SUMS, COUNTS):
        info = file.tensors.get(name + suffix)
        if info is None or info.type is not QuantType.F32 or len(info.shape) > 3:
            found = "missing" if info is None else f"{info.type.name} of shape {list(info.shape)}"
            raise ModelFormatError(f"{file.path}: tensor {name + suffix} is {found}; expected F32, a row an expert")
    counts = file.array(name + COUNTS).reshape(-1)
    sums = file.array(name + SUMS)
    if sums.size % counts.size or not (np.isfinite(counts) & (counts >= 0)).all():
        raise ModelFormatError(f"{file.path}: {counts.size} counts do not fit the {sums.size} sums of {name}")
    sums = sums.reshape(counts.size, -1)
    if not (np.isfinite(sums) & (sums >= 0)).all():
        raise ModelFormatError(f"{file.path}: a sum of squares of {name} is negative or no number")
    return InputSquares(sums.astype(np.float64), np.rint(counts).astype(np.int64))
