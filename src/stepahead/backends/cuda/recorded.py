"""Which passes are recorded to be replayed: their numbers of rows, and how wide their block tables are.

Pure: a memory plan counts what they take without torch, triton or a GPU.
"""

from collections.abc import Sequence

NUM_ROWS = (1, 2, 3, 4, 5, 8, 12, 16)
"""Rows that passes are recorded for; others are padded to the next. More are launched one by one."""

MAX_ROWS = NUM_ROWS[-1]
WIDTHS = (32, 128, 512, 2048, 4096)
"""Of block tables, in blocks of 64 positions: a longer text has its passes recorded anew. Nothing is read of what is
too wide; but there is a program for each split that it could hold, and memory for what it gives."""

TRUNK_ROWS = (8, 5, 4, 3, 2, 1)
HEAD_ROWS = (4, 3, 2, 1)
"""What one text is decoded with, and some side by side: recorded ahead, the most first, so that the others find memory
to share."""


def next_size(sizes: Sequence[int], count: int) -> int:
    """The first that is no less."""
    return next(size for size in sizes if size >= count)


def later(recorded_ahead: Sequence[int]) -> tuple[int, ...]:
    """The other numbers of rows, as they may come."""
    return tuple(count for count in NUM_ROWS if count not in recorded_ahead)
