"""Stop strings in text that arrives in pieces.

Owns the search: which text is safe to show, and where the first stop string ends the text. Must not know where the
text comes from.
"""

from collections.abc import Sequence

from stepahead.errors import RequestError


class StopStrings:
    """Passes text through until a stop string is complete; holds back what may be the beginning of one.

    The stop string that is complete first wins; of several complete at the same character the one that began
    first. Where pieces are cut has no influence on the result. Time is linear in the text per stop string.
    """

    def __init__(self, stops: str | Sequence[str]) -> None:
        """Raises RequestError for a stop string that is empty, not a string or not valid Unicode."""
        self._stops = tuple(map(_checked, (stops,) if isinstance(stops, str) else stops))
        self._borders = tuple(map(_borders, self._stops))
        self._lengths = [0] * len(self._stops)  # per stop string: how much of it the text so far ends with
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """The text that can be shown now; the stop string and what follows it never. Empty after a match."""
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        for index, char in enumerate(text):
            self._advance(char)
            if self.matched is not None:
                shown = self._held + text[: index + 1]
                self._held = ""
                return shown[: -len(self.matched)]
        text = self._held + text
        safe = len(text) - max(self._lengths)
        self._held = text[safe:]
        return text[:safe]

    def flush(self) -> str:
        """The text held back, when no more will come."""
        held, self._held = self._held, ""
        return held

    def _advance(self, char: str) -> None:
        complete = []
        for i, (stop, borders) in enumerate(zip(self._stops, self._borders, strict=True)):
            length = self._lengths[i]
            while length and stop[length] != char:
                length = borders[length - 1]
            if stop[length] == char:
                length += 1
            self._lengths[i] = length
            if length == len(stop):
                complete.append(stop)
        if complete:
            self.matched = max(complete, key=len)


def _checked(stop: str) -> str:
    if not isinstance(stop, str) or not stop:
        raise RequestError(f"stop string {stop!r} must be a non-empty string; leave it out")
    if any("\ud800" <= char <= "\udfff" for char in stop):
        raise RequestError(f"stop string {stop!r} holds a lone surrogate and can never occur; leave it out")
    return stop


def _borders(stop: str) -> list[int]:
    """For each prefix of `stop`: length of its longest proper prefix that is also its suffix (Knuth, Morris, Pratt)."""
    borders = [0] * len(stop)
    length = 0
    for i in range(1, len(stop)):
        while length and stop[i] != stop[length]:
            length = borders[length - 1]
        if stop[i] == stop[length]:
            length += 1
        borders[i] = length
    return borders
