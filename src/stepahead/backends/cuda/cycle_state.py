"""What a cycle's sequences begin with, sent to the device: where they stand, their newest tokens and hidden rows."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch

from stepahead.backends.cuda.cycle_tensors import RING, CycleTensors
from stepahead.backends.cuda.device import Device
from stepahead.backends.cuda.rows import Rows
from stepahead.backends.cuda.static_arrays import StaticArrays
from stepahead.models.cycles import MAX_RECORDED, CycleStart


class CycleState:
    """Until it is filled all sequences stand still: what is recorded then changes nothing.

    levels: (depth + 1, n * RING, hidden_size) hidden rows of the trunk and of each head. kept: (depth + 1,
    n * (depth + 1), hidden_size) what the rows of a cycle gave, the trunk's first.
    """

    def __init__(self, device: Device, num_sequences: int, depth: int, hidden_size: int) -> None:
        heads, each = (max(depth, 1), num_sequences), (num_sequences,)
        self._arrays = StaticArrays(
            device,
            {
                **dict.fromkeys(("running", "position", "recorded_start", "recorded_count"), ("int32", each)),
                "next_row": ("int32", heads),
                "first_key": ("int32", heads),
                "token_ids": ("int32", (num_sequences, RING)),
                "recorded_ids": ("int32", (num_sequences, MAX_RECORDED)),
                "is_right": ("int8", (*heads, MAX_RECORDED)),
            },
        )
        like = {"dtype": torch.float32, "device": device.torch}
        record = torch.zeros((num_sequences, 3 * depth + 2), dtype=torch.int32, device=device.torch)
        self.tensors = CycleTensors(record=record, **self._arrays.tensors)
        self.levels = torch.zeros((depth + 1, num_sequences * RING, hidden_size), **like)
        self.kept = torch.zeros((depth + 1, num_sequences * (depth + 1), hidden_size), **like)

    def fill(self, starts: Sequence[CycleStart]) -> None:
        depth, target = self.tensors.depth, self._arrays.begin()
        assert len(starts) == self.tensors.num_sequences
        for number, start in enumerate(starts):
            target["running"][number] = 1
            target["position"][number] = start.position
            for head in range(depth):
                assert start.position + head - depth <= start.next_row[head] <= start.position + head, "too many rows"
                target["next_row"][head, number] = start.next_row[head]
                target["first_key"][head, number] = start.first_key[head]
                self._fill_level(number, head, start)
            tokens = start.token_ids[-RING:]
            places = np.arange(start.position + 1 - len(tokens), start.position + 1)
            assert len(tokens) > start.position - min(start.next_row[:depth], default=start.position), "tokens missing"
            target["token_ids"][number, places % RING] = tokens
            target["recorded_count"][number] = 0
            if start.recorded is not None:
                count = len(start.recorded.token_ids)
                assert count <= MAX_RECORDED
                target["recorded_start"][number] = start.recorded.start
                target["recorded_count"][number] = count
                target["recorded_ids"][number, :count] = start.recorded.token_ids
                target["is_right"][:depth, number, :count] = start.recorded.is_right.T
        self._arrays.send()

    def _fill_level(self, number: int, head: int, start: CycleStart) -> None:
        """Rows that follow one another lie in at most two stretches of a ring."""
        end = start.position if head == 0 else start.next_row[head - 1]
        count = end - (start.next_row[head] - 1)
        if count <= 0:
            return
        rows = start.levels[head]
        assert rows is not None and rows.shape[0] >= count, f"head {head} lacks rows that it reads"
        values = cast(Rows, rows).values[:count]
        first = (start.next_row[head] - 1) % RING
        ring = self.levels[head, number * RING : (number + 1) * RING]
        before = min(count, RING - first)
        ring[first : first + before].copy_(values[:before])
        ring[: count - before].copy_(values[before:])
