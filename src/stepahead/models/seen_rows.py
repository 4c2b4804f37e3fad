"""The rows of ids seen lately, of each output matrix: kept as the backend at hand multiplies with them.

Owns where rows lie, and which id each column of a shortlist's logits has. Must not know: why an id enters or leaves.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from stepahead.backends.base import Backend, Ints, QuantMatrix
from stepahead.models.short_output import ShortOutput


class SeenRows(Protocol):
    @property
    def ids(self) -> Ints:
        """Of the columns: the frequent ones, then one of each slot; -1 in the last ones where slots are empty."""
        ...

    @property
    def nbytes(self) -> int: ...

    def write(self, slots: Ints, ids: Ints) -> None:
        """The slots have these ids now. Slots that were never written are the last."""
        ...

    def matrix(self, number: int) -> QuantMatrix | None:
        """Of output `number`, the rows of the columns behind the frequent ones; None: there is no such column."""
        ...


class HostRows:
    """Where weights are multiplied in place: rows in the process's memory, and matrices over those that are there."""

    def __init__(self, backend: Backend, frequent: Ints, outputs: Sequence[ShortOutput], capacity: int) -> None:
        self.ids = frequent
        self._num_frequent = len(frequent)
        self._backend = backend
        self._outputs = tuple(outputs)
        self._rows = [np.empty((capacity, part.rows.shape[1]), np.uint8) for part in outputs]
        self._matrices: list[QuantMatrix | None] = [None] * len(outputs)

    @property
    def nbytes(self) -> int:
        return sum(rows.nbytes for rows in self._rows)

    def write(self, slots: Ints, ids: Ints) -> None:
        old = self.ids  # passes have given it away
        self.ids = np.empty(max(len(old), self._num_frequent + int(slots.max()) + 1), np.int32)
        self.ids[: len(old)] = old
        self.ids[self._num_frequent + slots] = ids
        for part, rows in zip(self._outputs, self._rows, strict=True):
            rows[slots] = part.rows[ids]
        self._matrices = [None] * len(self._outputs)

    def matrix(self, number: int) -> QuantMatrix | None:
        count = len(self.ids) - self._num_frequent
        if count == 0:
            return None
        found = self._matrices[number]
        if found is None:
            part, rows = self._outputs[number], self._rows[number][:count]
            found = self._backend.load_matrix(rows, part.type, part.seen_shape(count))
            self._matrices[number] = found
        return found


class DeviceRows:
    """Where weights are copied: matrices with a row for each slot, that stay where they are and so do the ids, for
    passes that were recorded. What enters is all that goes there."""

    def __init__(self, backend: Backend, frequent: Ints, outputs: Sequence[ShortOutput], capacity: int) -> None:
        self.ids = np.concatenate([frequent, np.full(capacity, -1, np.int32)])
        self._num_frequent = len(frequent)
        self._backend = backend
        self._outputs = tuple(outputs)
        self._matrices = [
            backend.load_matrix(
                np.zeros((capacity, part.rows.shape[1]), np.uint8), part.type, part.seen_shape(capacity)
            )
            for part in (outputs if capacity else ())
        ]
        backend.write_ids(self.ids)

    @property
    def nbytes(self) -> int:
        return sum(matrix.nbytes for matrix in self._matrices)

    def write(self, slots: Ints, ids: Ints) -> None:
        for part, matrix in zip(self._outputs, self._matrices, strict=True):
            self._backend.write_rows(matrix, slots, part.rows[ids])
        self.ids[self._num_frequent + slots] = ids
        self._backend.write_ids(self.ids)

    def matrix(self, number: int) -> QuantMatrix | None:
        return self._matrices[number] if self._matrices else None
