"""Sums that wait for whoever wants them: most often a norm, which adds up on its way and saves a launch."""

import torch

from stepahead.backends.cuda.kernels.add import add
from stepahead.backends.cuda.kernels.rms_norm import add_rms_norm
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.rows import Rows


class SumRows(Rows):
    """x + y, of tensors that nobody writes again; added up once, by the first who looks."""

    __slots__ = ("_launch", "_sum", "_x", "_y")

    def __init__(self, launch: Launcher, x: torch.Tensor, y: torch.Tensor) -> None:
        self._launch = launch
        self._x = x
        self._y = y
        self._sum: torch.Tensor | None = None
        self.half = None

    @property
    def is_pending(self) -> bool:
        return self._sum is None

    @property
    def values(self) -> torch.Tensor:
        if self._sum is None:
            self._sum = add(self._launch, self._x, self._y)
        return self._sum

    @property
    def shape(self) -> tuple[int, int]:
        return self._x.shape[0], self._x.shape[1]

    def normed(self, weight: torch.Tensor, eps: float) -> Rows:
        """Its norm, while it is pending; no longer then."""
        assert self._sum is None
        self._sum, normed = add_rms_norm(self._launch, self._x, self._y, weight, eps, with_half=True)
        return normed
