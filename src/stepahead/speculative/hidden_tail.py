"""The newest hidden rows of one sequence at one level, in the backend's memory: what a head reads as its input.

Level 0 is the trunk's tap, level k + 1 the outputs of head k. Rows are named by position and never copied to the
host. This file knows nothing about heads, drafts or requests.
"""

from collections.abc import Iterator

import numpy as np

from stepahead.backends.base import Backend, Ints, Tensor

FIRST_CAPACITY = 64


class HiddenTail:
    """Rows for the positions start .. end - 1; beyond `capacity` of them the oldest make room. None: keep all.

    A ring that grows by doubling up to its capacity: position p lies in row p % size.
    """

    __slots__ = ("_backend", "_capacity", "_rows", "_size", "_width", "end", "start")

    def __init__(self, backend: Backend, width: int, capacity: int | None) -> None:
        self._backend = backend
        self._width = width
        self._capacity = capacity
        self._size = FIRST_CAPACITY if capacity is None else min(FIRST_CAPACITY, capacity)
        self._rows = backend.zeros(self._size, width)
        self.start = 0
        self.end = 0

    def restart(self, position: int) -> None:
        """Empty, and `position` comes next."""
        self.start = self.end = position

    def truncate(self, end: int) -> None:
        """Forget the rows from `end` on; rows that came later than `end` leave nothing."""
        if end < self.end:
            self.end = end
            self.start = min(self.start, end)

    def store(self, position: int, source: Tensor, first_row: int, num_rows: int) -> None:
        """Keep rows first_row .. of `source` for the positions from `position` on; later positions are forgotten.

        A gap cannot be bridged: rows that do not follow the stored ones replace them.
        """
        has_room = position - self.start < self._size or self._size == self._capacity
        if num_rows == 1 and position == self.end and has_room:  # most steps
            self._backend.copy_rows(self._rows, position % self._size, source, first_row, 1)
            self.end += 1
            self.start = max(self.start, self.end - self._size)
            return
        if not self.start <= position <= self.end:
            self.restart(position)
        self.truncate(position)
        if self._capacity is not None and num_rows > self._capacity:
            num_skipped = num_rows - self._capacity
            position, first_row, num_rows = position + num_skipped, first_row + num_skipped, self._capacity
            self.restart(position)
        end = position + num_rows
        self._reserve(end - self.start)
        for offset, slot, count in self._runs(position, end):
            self._backend.copy_rows(self._rows, slot, source, first_row + offset, count)
        self.start, self.end = max(self.start, end - self._size), end

    def copy(self, first: int, last: int, target: Tensor, target_row: int) -> None:
        """Copy the rows of positions first .. last - 1 to `target`, from target_row on."""
        assert self.start <= first <= last <= self.end, "a hidden row is gone"
        for offset, slot, count in self._runs(first, last):
            self._backend.copy_rows(target, target_row + offset, self._rows, slot, count)

    def read(self, first: int, last: int) -> Tensor:
        """The rows of positions first .. last - 1, an op's result."""
        assert self.start <= first < last <= self.end, "a hidden row is gone"
        return self._backend.gather_rows(self._rows, self._slots(first, last))

    def _slots(self, first: int, last: int) -> Ints:
        slots: Ints = np.arange(first, last, dtype=np.int32) % np.int32(self._size)
        return slots

    def _runs(self, first: int, last: int) -> Iterator[tuple[int, int, int]]:
        """Stretches of slots that positions first .. last - 1 fill: (position - first, slot, count), at most two."""
        position = first
        while position < last:
            slot = position % self._size
            count = min(last - position, self._size - slot)
            yield position - first, slot, count
            position += count

    def _reserve(self, num_rows: int) -> None:
        """Make room for num_rows, as far as the capacity goes; stored rows move to where the new size puts them."""
        if num_rows <= self._size or self._size == self._capacity:
            return
        size = max(num_rows, 2 * self._size)
        size = size if self._capacity is None else min(size, self._capacity)
        kept = self._backend.gather_rows(self._rows, self._slots(self.start, self.end))
        self._rows, self._size = self._backend.zeros(size, self._width), size
        for offset, slot, count in self._runs(self.start, self.end):
            self._backend.copy_rows(self._rows, slot, kept, offset, count)
