"""Where sequences stand that draft and verify cycle after cycle, as tensors that stay: what a cycle begins with, and
leaves for the next one."""

from dataclasses import dataclass

import torch

RING = 32
"""Positions that tokens and hidden rows of a sequence are kept for, each at its remainder; a power of two."""

MAX_DEPTH = 7
"""Of a draft: rows of a cycle are read and written from position - 1 - depth to position + depth."""

assert 2 * (MAX_DEPTH + 1) <= RING


@dataclass(frozen=True, slots=True)
class CycleTensors:
    """Of n sequences and heads for a depth of them, at least one; int32 where nothing else is said.

    record: of each sequence what its last cycle did: accepted draft tokens, -1 where it stands still; the target's
    choices, depth + 1; draft tokens, depth; bits of their float32 margins.
    """

    running: torch.Tensor  # (n,) 0: it stands still
    position: torch.Tensor  # (n,) of the last committed token
    next_row: torch.Tensor  # (heads, n)
    first_key: torch.Tensor  # (heads, n)
    token_ids: torch.Tensor  # (n, RING) by position
    recorded_start: torch.Tensor  # (n,)
    recorded_count: torch.Tensor  # (n,)
    recorded_ids: torch.Tensor  # (n, MAX_RECORDED)
    is_right: torch.Tensor  # (heads, n, MAX_RECORDED) int8
    record: torch.Tensor  # (n, 3 * depth + 2)

    @property
    def num_sequences(self) -> int:
        return self.position.shape[0]

    @property
    def depth(self) -> int:
        return (self.record.shape[1] - 2) // 3
