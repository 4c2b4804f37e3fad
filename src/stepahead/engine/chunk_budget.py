"""How many prompt rows a step can take along without keeping those who decode waiting: learnt from what steps took.

A step with prompt rows is predicted as the same step without them, plus the rows at what a row was seen to cost in
chunks of about that size. Rows behind a long context cost more: such a row counts as several. Knows rows and
milliseconds; no clock, no sequence, no model.
"""

import math
from collections.abc import Sequence as Seq

MIN_ROWS = 4.0
"""Of the smallest chunk, with which learning begins; a prompt behind a short context always gets one row."""

MAX_GROWTH = 4.0
"""Of a chunk, to the largest that was timed: what smaller ones cost says little about one many times as large."""

AIM = 0.9
"""Of the limit: steps of one size spread by a tenth and more, and the limit is meant for nearly all of them."""

MIN_GAIN = 2.0
"""A step may take this many times what it takes without prompts, whatever the limit: where a model's own steps are
slow, a prompt would never end."""

LONG_CONTEXT = 2048
"""Tokens before a row from which on it is no longer in the first class; each class is twice as long."""

_SIZES = [MIN_ROWS * (1 << number) for number in range(12)]  # of chunks; straight lines between them
_GAIN = 1.0 / 2.0
_DOUBT = 1.0 / 8.0
_CLIP = 2.0  # a step that took more than twice the prediction was disturbed, and tells no more than twice
_CLOCK_MS = 1e-3  # no step takes less, whatever a clock says
_MIN_SHARE = 0.1  # of a mixed step, that its prompt rows took at least: noise must not make them free


class ChunkBudget:
    """For one engine; what is learnt outlives requests."""

    __slots__ = ("_chunk_ms", "_largest", "_max_ms", "_plain_ms", "_weights")

    def __init__(self, max_ms: float | None) -> None:
        """max_ms: of a step, while somebody decodes; None: no limit."""
        self._max_ms = max_ms
        self._plain_ms: dict[int, float] = {}  # of steps without prompts, by class of rows
        self._chunk_ms: list[float | None] = [None] * len(_SIZES)  # of so many prompt rows of weight 1
        self._weights = {0: 1.0}  # by class of context
        self._largest = MIN_ROWS / MAX_GROWTH

    def units(self, num_decode_rows: int) -> float:
        """Prompt rows of weight 1 that fit beside so many rows of those who decode; infinite without a limit."""
        if self._max_ms is None:
            return math.inf
        plain = self._plain_ms.get(num_decode_rows.bit_length(), 0.0)
        spare = max(AIM * self._max_ms, MIN_GAIN * plain) - plain
        return min(self._fitting(spare), MAX_GROWTH * self._largest)

    def _fitting(self, spare: float) -> float:
        """Rows of weight 1 whose time is `spare`."""
        rows = before = 0.0
        for size, known in zip(_SIZES, self._chunk_ms, strict=True):
            if known is None and before == 0.0:
                continue
            # Twice the rows take twice the time at most.
            chunk_ms = before * size / rows if known is None else max(known, before)
            if chunk_ms > spare:
                return rows + (size - rows) * (spare - before) / (chunk_ms - before)
            rows, before = size, chunk_ms
        return rows or MIN_ROWS

    def weight(self, num_keys: int) -> float:
        """How many rows a row behind so many tokens counts as."""
        found = _context_class(num_keys)
        known = max(number for number in self._weights if number <= found)
        return float(self._weights[known] * 2 ** (found - known))

    def learn(self, num_decode_rows: int, chunks: Seq[tuple[int, int]], milliseconds: float) -> None:
        """A step took so long; chunks: (rows, tokens before them) of each prompt in it."""
        milliseconds = max(milliseconds, _CLOCK_MS)
        if not chunks:
            self._learn_plain(num_decode_rows.bit_length(), milliseconds)
        elif num_decode_rows:  # without, a step also tells of the weights that it reads, and nobody waits for it
            plain = self._plain_ms.get(num_decode_rows.bit_length(), 0.0)
            self._learn_mixed(chunks, max(milliseconds - plain, _MIN_SHARE * milliseconds))

    def _learn_plain(self, number: int, milliseconds: float) -> None:
        old = self._plain_ms.get(number)
        if old is None:
            self._plain_ms[number] = milliseconds
        else:
            self._plain_ms[number] = old * _ratio(milliseconds, old) ** _GAIN

    def _learn_mixed(self, chunks: Seq[tuple[int, int]], milliseconds: float) -> None:
        units = sum(rows * self.weight(num_keys) for rows, num_keys in chunks)
        self._largest = max(self._largest, units)
        predicted = self._predict(units)
        rows, num_keys = max(chunks)
        found = _context_class(num_keys)
        if found == 0 or predicted is None:
            self._learn_chunk(units, milliseconds, predicted)
        elif found in self._weights:
            self._weights[found] = max(self._weights[found] * _ratio(milliseconds, predicted) ** _GAIN, 1.0)
        else:
            others = units - rows * self.weight(num_keys)
            self._weights[found] = max((units * milliseconds / predicted - others) / rows, 1.0)

    def _learn_chunk(self, units: float, milliseconds: float, predicted: float | None) -> None:
        above = next((number for number, size in enumerate(_SIZES) if size >= units), len(_SIZES) - 1)
        factor = 1.0 if predicted is None else _ratio(milliseconds, predicted) ** _GAIN
        for number in {max(above - 1, 0), above}:
            known = self._chunk_ms[number]
            self._chunk_ms[number] = milliseconds * _SIZES[number] / units if known is None else known * factor
        if above + 1 < len(_SIZES):
            self._doubt(above + 1)

    def _doubt(self, number: int) -> None:
        """A size that seemed too dear: if it was a disturbed step that said so, it must be tried again some day."""
        known, smaller = self._chunk_ms[number], self._chunk_ms[number - 1]
        if known is not None and smaller is not None and known > 2.0 * smaller:
            self._chunk_ms[number] = known + (2.0 * smaller - known) * _DOUBT

    def _predict(self, units: float) -> float | None:
        """Milliseconds of so many rows of weight 1; None: nothing is known."""
        rows = before = 0.0
        for size, known in zip(_SIZES, self._chunk_ms, strict=True):
            if known is not None:
                if units <= size:
                    return before + (units - rows) / (size - rows) * (known - before)
                rows, before = size, known
        return before * units / rows if rows else None


def _context_class(num_keys: int) -> int:
    return (num_keys // LONG_CONTEXT).bit_length()


def _ratio(measured: float, predicted: float) -> float:
    return min(max(measured / predicted, 1.0 / _CLIP), _CLIP)
