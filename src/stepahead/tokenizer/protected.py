"""Text from outside that a chat template writes among its own: it must not become control tokens, and forge turns.

Where such text spells a control token, or could spell one together with what the template writes beside it, a mark is
put into it before the template sees it; the tokenizer cuts the rendering at control tokens and then takes the marks
out. Text without such places is untouched, so that its tokens are what they would be.

Owns the marks. Must not know about messages or templates.
"""

import re
from collections.abc import Iterable
from typing import Any

# Noncharacters: no text may use them for interchange, so one that the data does not hold is soon found.
_MARKS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
_LEAST_PART = 2  # characters; one alone, such as "<", is everywhere


class Protection:
    """Marks the places of given control texts. Immutable; safe to share between threads."""

    def __init__(self, control_texts: Iterable[str]) -> None:
        texts = sorted({text for text in control_texts if len(text) >= _LEAST_PART}, key=len, reverse=True)
        # Vocabularies have hundreds of them that begin alike: two characters find the few places worth a look.
        self._by_start: dict[str, list[str]] = {}
        for text in texts:
            self._by_start.setdefault(text[:_LEAST_PART], []).append(text)
        self._start = re.compile("|".join(map(re.escape, self._by_start))) if texts else None
        self._beginnings = {text[:length] for text in texts for length in range(_LEAST_PART, len(text))}
        self._ends = {text[-length:] for text in texts for length in range(_LEAST_PART, len(text))}
        self._longest = max(map(len, texts), default=0)

    def mark_for(self, *data: Any) -> str | None:
        """A mark that occurs in none of the data; None if all do."""
        texts = "".join(_strings(data))
        return next((mark for mark in _MARKS if mark not in texts), None)

    def marked(self, data: Any, mark: str, spared: frozenset[str] = frozenset()) -> Any:
        """A copy of plain data with marks in all its strings; control texts in `spared` stay as they are."""
        if isinstance(data, str):
            return self._marked(data, mark, spared)
        if isinstance(data, dict):
            return {self._marked(key, mark, spared): self.marked(value, mark, spared) for key, value in data.items()}
        if isinstance(data, list | tuple):
            return [self.marked(item, mark, spared) for item in data]
        return data

    def _marked(self, text: str, mark: str, spared: frozenset[str]) -> str:
        if self._start is None or len(text) < _LEAST_PART:
            return text
        places = [match.start() for match in self._start.finditer(text) if self._is_control(text, match, spared)]
        if (length := self._part(text, self._beginnings, from_end=True)) > 0:
            places.append(len(text) - length)
        if (length := self._part(text, self._ends, from_end=False)) > 0:
            places.append(length - 2)
        for place in sorted(set(places), reverse=True):
            text = text[: place + 1] + mark + text[place + 1 :]
        return text

    def _is_control(self, text: str, match: re.Match[str], spared: frozenset[str]) -> bool:
        candidates = self._by_start[match.group()]
        found = next((one for one in candidates if text.startswith(one, match.start())), None)
        return found is not None and found not in spared

    def _part(self, text: str, parts: set[str], from_end: bool) -> int:
        """Length of the longest part of a control text that the text ends (or begins) with."""
        for length in range(min(self._longest - 1, len(text)), _LEAST_PART - 1, -1):
            if (text[-length:] if from_end else text[:length]) in parts:
                return length
        return 0


def _strings(data: Any) -> Iterable[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield key
            yield from _strings(value)
    elif isinstance(data, list | tuple):
        for item in data:
            yield from _strings(item)
