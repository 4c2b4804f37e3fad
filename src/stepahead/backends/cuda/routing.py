"""Which experts a row goes to, as it lies on the device."""

import torch

MIN_ROWS = 32
"""Rows there is room for at least: kernels take 16 of them, and the count of experts 32, without asking how many."""


class Routing:
    """What the backend passes as `Routing`.

    ids: (padded rows, padded top_k) int32, a row's experts ascending, then -1; rows from num_rows on hold -1 alone.
    Both sizes are powers of two. weights: the same shape, float32. The pair of a row and its slot has the number
    row * padded top_k + slot.
    """

    __slots__ = ("ids", "num_rows", "top_k", "weights")

    def __init__(self, ids: torch.Tensor, weights: torch.Tensor, num_rows: int, top_k: int) -> None:
        self.ids = ids
        self.weights = weights
        self.num_rows = num_rows
        self.top_k = top_k

    @classmethod
    def empty(cls, num_rows: int, top_k: int, device: torch.device) -> "Routing":
        shape = (max(MIN_ROWS, power_of_two(num_rows)), power_of_two(top_k))
        ids = torch.empty(shape, dtype=torch.int32, device=device)
        return cls(ids, torch.empty(shape, dtype=torch.float32, device=device), num_rows, top_k)

    @property
    def shape(self) -> tuple[int, int]:
        return self.num_rows, self.top_k

    @property
    def padded_top_k(self) -> int:
        return int(self.ids.shape[1])

    @property
    def num_pairs(self) -> int:
        """With the padding between the rows, without that behind them."""
        return self.num_rows * self.padded_top_k


def power_of_two(number: int) -> int:
    """The least one that is no less."""
    return 1 << max(number - 1, 0).bit_length()
