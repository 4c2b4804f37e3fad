"""Keeps which experts the first rows of a pass chose, layer by layer, until somebody asks how many those are.

Routers leave a copy of their ids in memory that stays at its address; one launch a pass counts them. A layer on its own
would cost one each.
"""

import torch

from stepahead.backends.base import MAX_COUNTED_ROWS
from stepahead.backends.cuda.kernels.counted_experts import counted_experts
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.routing import MIN_ROWS, power_of_two

LAYERS = 64  # that memory is taken for at a time

assert MIN_ROWS >= MAX_COUNTED_ROWS  # so that a router fills all of its page


class ExpertCounter:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pages: list[torch.Tensor] = []  # (LAYERS, MAX_COUNTED_ROWS, padded top_k) int32 each
        self._added = torch.empty(MAX_COUNTED_ROWS, dtype=torch.int32, device=device)
        self._num_layers = 0
        self._num_rows = 0

    def begin_step(self) -> None:
        self._num_layers = self._num_rows = 0

    def page(self, num_rows: int, top_k: int) -> torch.Tensor:
        """Where the next router leaves its ids: (MAX_COUNTED_ROWS, padded top_k)."""
        book, place = divmod(self._num_layers, LAYERS)
        if book == len(self._pages):
            shape = (LAYERS, MAX_COUNTED_ROWS, power_of_two(top_k))
            self._pages.append(torch.empty(shape, dtype=torch.int32, device=self._device))
        assert self._pages[book].shape[2] == power_of_two(top_k), "one top_k a model"
        self._num_layers += 1
        self._num_rows = max(self._num_rows, min(num_rows, MAX_COUNTED_ROWS))
        return self._pages[book][place]

    @property
    def num_layers(self) -> int:
        """Of the pass so far."""
        return self._num_layers

    def replayed(self, num_layers: int, num_rows: int) -> None:
        """The pages hold what a replayed pass left: so many layers, and rows that are of a sequence."""
        self._num_layers = num_layers
        self._num_rows = min(num_rows, MAX_COUNTED_ROWS) if num_layers else 0

    def count(self, launch: Launcher) -> torch.Tensor:
        """(MAX_COUNTED_ROWS,) int32 on the device: (layer, expert) pairs that a row adds to those before it.

        Only the first rows are filled, as many as the widest layer of the pass has.
        """
        for book in range(-(-self._num_layers // LAYERS)):
            num_layers = min(LAYERS, self._num_layers - book * LAYERS)
            num_rows = power_of_two(self._num_rows)
            counted_experts(launch, self._pages[book], num_layers, num_rows, self._added, accumulate=book > 0)
        return self._added

    @property
    def num_rows(self) -> int:
        """Of the pass so far that are counted."""
        return self._num_rows
