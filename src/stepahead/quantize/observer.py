"""A backend that computes as the CPU's does and keeps, of each matrix, the sums of its squared inputs.

A matrix is known by where its bytes lie in the model's files, so that models need to know nothing of being observed.
Routed experts are run one after the other, for the inputs of their down projections are seen nowhere else. Must not
know: models, texts, files that are written.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stepahead import _native
from stepahead.backends.base import Handle
from stepahead.backends.cpu.ops import CpuBackend
from stepahead.gguf import GGUFFile
from stepahead.quantize.importance import InputSquares


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    start: int  # address of the first byte
    name: str
    expert_nbytes: int
    sums: npt.NDArray[np.float64]  # (num_experts, row)
    counts: npt.NDArray[np.int64]


class ObservingBackend(CpuBackend):
    """Observes the products with matrices of the given files; those of two dimensions count as one expert."""

    def __init__(self, files: Sequence[GGUFFile], threads: int | None = None) -> None:
        super().__init__(threads)
        found = [_sums(file, name) for file in files for name, info in file.tensors.items() if len(info.shape) > 1]
        self._matrices = sorted(found, key=lambda matrix: matrix.start)
        self._starts = [matrix.start for matrix in self._matrices]

    def squares(self) -> dict[str, InputSquares]:
        """Of the matrices that had inputs."""
        return {m.name: InputSquares(m.sums, m.counts) for m in self._matrices if m.counts.any()}

    def linear(self, x: Handle, matrix: Handle) -> _native.Buffer:
        self._observe(x, (matrix,))
        return super().linear(x, matrix)

    def linear_many(self, x: Handle, matrices: Sequence[Handle]) -> tuple[_native.Buffer, ...]:
        self._observe(x, matrices)
        return super().linear_many(x, matrices)

    def moe_ffn(
        self, x: Handle, routing: Handle, gate: Handle, up: Handle, down: Handle, limit: float, shared: None = None
    ) -> _native.Buffer:
        return self._moe_ffn_by_expert(x, routing, gate, up, down, limit)

    def _observe(self, x: Handle, matrices: Sequence[Handle]) -> None:
        squares: npt.NDArray[np.float64] | None = None
        for matrix in matrices:
            address = int(matrix.data.ctypes.data)
            known = self._matrices[bisect_right(self._starts, address) - 1]
            expert, rest = divmod(address - known.start, known.expert_nbytes)
            # The second part of a fused matrix has the inputs of the first; other bytes are no matrix of the files.
            if rest or not 0 <= expert < len(known.counts):
                continue
            if squares is None:
                squares = np.square(self.download(x), dtype=np.float64).sum(0)
            known.sums[expert] += squares
            known.counts[expert] += x.shape[0]


def _sums(file: GGUFFile, name: str) -> _Sums:
    info, data = file.tensors[name], file.data(name)
    num_experts = info.shape[0] if len(info.shape) > 2 else 1
    sums = np.zeros((num_experts, info.shape[-1]), np.float64)
    return _Sums(int(data.ctypes.data), name, info.nbytes // num_experts, sums, np.zeros(num_experts, np.int64))
