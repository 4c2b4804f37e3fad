"""The ids that a draft token may be: a shortlist of the vocabulary, and the rows of output matrices that belong to it.

Reading the whole output matrix is most of what a draft pass costs, and nearly all of its rows are of ids that never
come. A shortlist holds the frequent ids, as in FR-Spec (arXiv:2502.14856), and those that were seen lately, as in
DynaSpec (arXiv:2510.13847). It bounds what is guessed, never what is said: the target's own pass has every id.

Owns which ids these are. Must not know: requests, how rows were quantised or where they are kept.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from stepahead.backends.base import Backend, Ints, Tensor
from stepahead.models.seen_rows import DeviceRows, HostRows, SeenRows
from stepahead.models.short_output import ShortOutput

CAPACITY = 4096
"""Ids seen lately that a shortlist has room for."""

MAX_ADMITTED = 128
"""Rows copied for one call of `note`: half a megabyte of each output, which no step feels, even where they come from a
disk."""

MISSED = {4096: 0.070, 8192: 0.055, 16384: 0.038, 32768: 0.023, 65536: 0.010}
"""The share of a text's tokens that a shortlist lacks, by its number of frequent ids, with CAPACITY seen lately. The
mean of Python, C++, English and JSON, and of a first text and one after many others; with a vocabulary of 131,072 ids
these are 7.5 and 3.5 % at 8,192, 5.3 and 2.4 % at 16,384, 3.3 and 1.3 % at 32,768 (benchmarks/shortlist.py)."""

WORTH = 0.6
"""What a draft token that is proposed saves, in steps: about .75 of a step for one that is accepted, as .8 are."""

_FREQUENT, _UNKNOWN = -2, -1


class DraftVocab:
    """A shortlist and its rows of the heads' output matrices. Ids seen lately change with `note`."""

    def __init__(
        self,
        backend: Backend,
        frequent: Ints,  # ascending, distinct
        outputs: Sequence[ShortOutput],
        output_of: Sequence[int],  # for each head, its place in outputs
        capacity: int = CAPACITY,
    ) -> None:
        vocab_size = len(outputs[0].rows)
        assert (np.diff(frequent) > 0).all() and frequent[0] >= 0 and frequent[-1] < vocab_size
        self._backend = backend
        self._output_of = tuple(output_of)
        self._outputs = tuple(outputs)
        self._slots = np.full(vocab_size, _UNKNOWN, np.int32)
        self._slots[frequent] = _FREQUENT
        self._capacity = min(capacity, vocab_size - len(frequent))
        self._seen = np.empty(self._capacity, np.int32)  # id in each slot
        self._num_seen = 0
        self._last_use = np.zeros(self._capacity, np.int64)
        self._clock = 0
        self._waiting: dict[int, None] = {}  # ids to be admitted, the latest last
        rows: Callable[..., SeenRows] = HostRows if backend.own_memory is None else DeviceRows
        self._rows = rows(backend, frequent, outputs, self._capacity)

    @property
    def ids(self) -> Ints:
        """The id of each column of `logits`: the frequent ones ascending, then those seen lately. On a backend with a
        memory of its own the same array always, with -1 in its last places for what is yet to be seen."""
        return self._rows.ids

    @property
    def seen_nbytes(self) -> int:
        return self._rows.nbytes

    def note(self, token_ids: Sequence[int]) -> None:
        """Tokens that stand in some sequence: a draft may be one of them. No more than MAX_ADMITTED enter at once,
        the latest first; the others wait for the next call."""
        if self._capacity == 0:
            return
        ids = np.asarray(token_ids, np.int32)
        slots = self._slots[ids]
        self._clock += 1
        self._last_use[slots[slots >= 0]] = self._clock
        for token_id in ids[slots == _UNKNOWN].tolist():
            self._waiting.pop(token_id, None)
            self._waiting[token_id] = None
        if self._waiting:
            self._admit()

    def logits(self, head: int, x: Tensor) -> tuple[Tensor, Ints]:
        """Of normed rows: (num_rows, num_ids), and the ids of the columns."""
        number = self._output_of[head]
        part, seen = self._outputs[number], self._rows.matrix(number)
        if seen is None:
            return self._backend.linear(x, part.frequent), self.ids
        frequent, lately = self._backend.linear_many(x, (part.frequent, seen))
        return self._backend.concat(frequent, lately), self.ids

    def _admit(self) -> None:
        for _ in range(len(self._waiting) - self._capacity):  # these would be the next to leave
            del self._waiting[next(iter(self._waiting))]
        limit = min(MAX_ADMITTED, self._capacity)
        new = [self._waiting.popitem()[0] for _ in range(min(len(self._waiting), limit))]
        ids = np.array(new, np.int32)
        slots = self._free_slots(len(ids))
        self._seen[slots] = ids
        self._slots[ids] = slots
        self._last_use[slots] = self._clock
        self._rows.write(slots, ids)

    def _free_slots(self, count: int) -> Ints:
        """Slots never used, then those used least recently, whose ids leave."""
        first = self._num_seen
        self._num_seen = min(first + count, self._capacity)
        unused = np.arange(first, self._num_seen, dtype=np.int32)
        missing = count - len(unused)
        if missing == 0:
            return unused
        oldest = np.argsort(self._last_use[:first], kind="stable")[:missing].astype(np.int32)
        self._slots[self._seen[oldest]] = _UNKNOWN
        return np.concatenate([unused, oldest])


def best_size(vocab_size: int, row_bytes: int, small_row_bytes: int, step_nbytes: int) -> int | None:
    """How many frequent ids are the cheapest; None: the whole vocabulary is.

    The price in steps: what a draft pass reads of the output matrix, over the bytes that a step of one token reads, and
    the drafts that end because their token is missing. row_bytes are those of the file's output matrix.
    """
    prices: dict[int | None, float] = {None: vocab_size * row_bytes / step_nbytes}
    for size, missed in MISSED.items():
        if size < vocab_size:
            prices[size] = (size * small_row_bytes + CAPACITY * row_bytes) / step_nbytes + WORTH * missed
    return min(prices, key=lambda size: prices[size])


class HasDraftVocab(Protocol):
    draft_vocab: DraftVocab | None


@contextmanager
def all_ids(model: HasDraftVocab) -> Iterator[None]:
    """Within it the heads of `model` give the logits of the whole vocabulary."""
    kept, model.draft_vocab = model.draft_vocab, None
    try:
        yield
    finally:
        model.draft_vocab = kept
