"""Sums that wait for whoever wants them: most often a norm, which adds up on its way and saves launches."""

import torch

from stepahead.backends.cuda.expert_outputs import ExpertOutputs
from stepahead.backends.cuda.kernels.add import add
from stepahead.backends.cuda.kernels.moe_combine import moe_combine
from stepahead.backends.cuda.kernels.moe_combine_norm import moe_combine_norm
from stepahead.backends.cuda.kernels.rms_norm import add_rms_norm
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.rows import Rows


class ExpertSums(Rows):
    """Of each row what its experts gave, weighted and added up by the first who looks."""

    __slots__ = ("_launch", "_sum", "experts")

    def __init__(self, launch: Launcher, experts: ExpertOutputs) -> None:
        self._launch = launch
        self._sum: torch.Tensor | None = None
        self.experts: ExpertOutputs | None = experts  # until they are added up
        self.half = None

    @property
    def values(self) -> torch.Tensor:
        if self.experts is not None:
            self._sum, self.experts = moe_combine(self._launch, self.experts), None
        assert self._sum is not None
        return self._sum

    @property
    def shape(self) -> tuple[int, int]:
        if self.experts is not None:
            return self.experts.shape
        return super().shape


class SumRows(Rows):
    """x + y, of tensors that nobody writes again; added up once, by the first who looks."""

    __slots__ = ("_launch", "_shape", "_sum", "_terms")

    def __init__(self, launch: Launcher, x: Rows, y: Rows) -> None:
        self._launch = launch
        waiting = y.experts if isinstance(y, ExpertSums) else None
        # Their memory is let go when they are added up: of experts it is many times that of the sum.
        self._terms: tuple[torch.Tensor, torch.Tensor | ExpertOutputs] | None
        self._terms = x.values, y.values if waiting is None else waiting
        self._sum: torch.Tensor | None = None
        self._shape = x.shape
        self.half = None

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    @property
    def is_pending(self) -> bool:
        return self._terms is not None

    @property
    def values(self) -> torch.Tensor:
        if self._terms is not None:
            x, y = self._terms
            if isinstance(y, ExpertOutputs):
                self._sum = moe_combine(self._launch, y, x)
            else:
                self._sum = add(self._launch, x, y)
            self._terms = None
        assert self._sum is not None
        return self._sum

    def normed(self, weight: torch.Tensor, eps: float) -> Rows:
        """Its norm, while it is pending; no longer then."""
        assert self._terms is not None
        x, y = self._terms
        if isinstance(y, ExpertOutputs):
            self._sum, normed = moe_combine_norm(self._launch, y, x, weight, eps)
        else:
            self._sum, normed = add_rms_norm(self._launch, x, y, weight, eps)
        self._terms = None
        return normed
