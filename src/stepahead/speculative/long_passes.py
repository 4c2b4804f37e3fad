"""What further rows cost beside a prompt's: passes too long to be measured ahead of need, learnt from those that ran.

A chunk of a prompt has most experts read whatever else is in the pass, and its rows share what is unpacked: there a
row costs far less than in a short pass. Knows rows and milliseconds; not whose rows they are.
"""

from itertools import pairwise

_GAIN = 1.0 / 8.0


class LongPasses:
    """Milliseconds of passes beyond those of `first` rows, which are known: straight lines between doublings."""

    __slots__ = ("_extra", "_first", "_points")

    def __init__(self, first: int) -> None:
        self._first = first
        self._extra: dict[int, float] = {}  # by number of doublings
        self._points = [(first, 0.0)]  # (rows, milliseconds more than `first` rows take), rising

    def extra(self, num_rows: int) -> float | None:
        """What num_rows rows take beyond `first`; None: no pass that long was seen."""
        if len(self._points) == 1:
            return None
        before, after = next(
            (pair for pair in pairwise(self._points) if num_rows <= pair[1][0]), (self._points[-2], self._points[-1])
        )
        slope = (after[1] - before[1]) / (after[0] - before[0])
        return before[1] + (num_rows - before[0]) * slope

    def learn(self, num_rows: int, milliseconds: float) -> None:
        """A longer pass took so much more than one of `first` rows; the caller bounds what is too much."""
        number = max(1, round(num_rows / self._first).bit_length() - 1)
        rows = self._first << number
        value = max(milliseconds, 0.0) * (rows - self._first) / (num_rows - self._first)
        old = self._extra.get(number, value)
        self._extra[number] = old + (value - old) * _GAIN
        highest, self._points = 0.0, [(self._first, 0.0)]
        for number, extra in sorted(self._extra.items()):
            highest = max(highest, extra)
            self._points.append((self._first << number, highest))
