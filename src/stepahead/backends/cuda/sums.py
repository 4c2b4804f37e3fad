"""Sums that wait for whoever wants them: most often a norm, which adds up on its way and saves launches."""

import torch

from stepahead.backends.cuda.expert_outputs import ExpertOutputs
from stepahead.backends.cuda.kernels.add import add
from stepahead.backends.cuda.kernels.moe_combine import moe_combine
from stepahead.backends.cuda.kernels.moe_combine_norm import moe_combine_norm
from stepahead.backends.cuda.kernels.rms_norm import add_rms_norm
from stepahead.backends.cuda.kernels.sum_splits import sum_splits
from stepahead.backends.cuda.kernels.sum_splits_norm import sum_splits_norm
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.rows import Rows
from stepahead.backends.cuda.split_sums import SplitSums

Unsummed = ExpertOutputs | SplitSums


class SumRows(Rows):
    """x + y, or y alone where it has to be added up itself; of tensors that nobody writes again. Added up once, by the
    first who looks, with the bits of each sum in a launch of its own."""

    __slots__ = ("_launch", "_shape", "_sum", "_x", "_y")

    def __init__(self, launch: Launcher, x: torch.Tensor | None, y: torch.Tensor | Unsummed) -> None:
        assert x is not None or not isinstance(y, torch.Tensor)
        self._launch = launch
        self._x = x
        self._y: torch.Tensor | Unsummed | None = y  # None when they are added up, for it may be many times as large
        self._sum: torch.Tensor | None = None
        self._shape = y.shape[0], y.shape[1]
        self.half = None

    @classmethod
    def of(cls, launch: Launcher, x: Rows, y: Rows) -> "SumRows":
        waiting = y.unsummed if isinstance(y, SumRows) else None
        return cls(launch, x.values, y.values if waiting is None else waiting)

    @property
    def is_pending(self) -> bool:
        return self._y is not None

    @property
    def unsummed(self) -> Unsummed | None:
        """What another sum may add up, too."""
        return None if self._x is not None or isinstance(self._y, torch.Tensor) else self._y

    @property
    def values(self) -> torch.Tensor:
        if self._y is not None:
            self._keep(_added(self._launch, self._x, self._y))
        assert self._sum is not None
        return self._sum

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    def normed(self, weight: torch.Tensor, eps: float) -> Rows:
        """Its norm, while it is pending; no longer then."""
        assert self._y is not None
        total, normed = _added_and_normed(self._launch, self._x, self._y, weight, eps)
        self._keep(total)
        return normed

    def _keep(self, total: torch.Tensor) -> None:
        self._sum, self._x, self._y = total, None, None


def _added(launch: Launcher, x: torch.Tensor | None, y: torch.Tensor | Unsummed) -> torch.Tensor:
    if isinstance(y, ExpertOutputs):
        return moe_combine(launch, y, x)
    if isinstance(y, SplitSums):
        return sum_splits(launch, y, x)
    assert x is not None
    return add(launch, x, y)


def _added_and_normed(
    launch: Launcher, x: torch.Tensor | None, y: torch.Tensor | Unsummed, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, Rows]:
    if isinstance(y, ExpertOutputs):
        return moe_combine_norm(launch, y, x, weight, eps)
    if isinstance(y, SplitSums):
        return sum_splits_norm(launch, y, x, weight, eps)
    assert x is not None
    return add_rms_norm(launch, x, y, weight, eps)
