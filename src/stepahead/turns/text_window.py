"""Text that arrives in pieces and is read by delimiters, so that where the pieces are cut has no influence.

Owns what was not read yet. Must not know what the text means.
"""

import re
from collections.abc import Iterable


class Delimiters:
    """A set of strings to read up to. Where several are possible, the one that begins first ends the text."""

    __slots__ = ("_pattern", "_prefixes", "longest")

    def __init__(self, texts: Iterable[str]) -> None:
        ordered = sorted(set(texts), key=len, reverse=True)
        for text in ordered:
            for other in ordered:
                # Else one could be complete within another that is not, and the outcome would depend on the cut.
                assert other not in text[:-1], f"{other!r} lies within {text!r}"
        self.longest = max(map(len, ordered), default=0)
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        self._prefixes = tuple({text[:end] for text in ordered for end in range(1, len(text))})

    def find(self, text: str, start: int) -> tuple[int, str] | None:
        """Where the first of them begins at or after `start`, and which it is."""
        found = self._pattern.search(text, start) if self._pattern is not None else None
        return None if found is None else (found.start(), found.group())

    def held(self, text: str, start: int) -> int:
        """Length of the longest end of text[start:] that may be the beginning of one of them."""
        if not text.endswith(self._prefixes, start):
            return 0
        longest = min(self.longest - 1, len(text) - start)
        return next(length for length in range(longest, 0, -1) if text[-length:] in self._prefixes)


class TextWindow:
    """The text from the first character that was not read yet."""

    __slots__ = ("_at", "_record", "_text")

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._record: list[str] | None = None

    def push(self, text: str) -> None:
        """Append text."""
        self._text = self._text[self._at :] + text
        self._at = 0

    @property
    def is_empty(self) -> bool:
        return self._at == len(self._text)

    def peek(self, length: int) -> str:
        """The next characters, `length` at most."""
        return self._text[self._at : self._at + length]

    def take(self, length: int) -> str:
        """Read the next characters."""
        taken = self._text[self._at : self._at + length]
        self._at += len(taken)
        if self._record is not None and taken:
            self._record.append(taken)
        return taken

    def take_rest(self) -> str:
        """Read all there is."""
        return self.take(len(self._text) - self._at)

    def take_before(self, delimiters: Delimiters) -> tuple[str, str | None]:
        """Read up to the first delimiter, it too; or, with None, all that cannot be the beginning of one."""
        found = delimiters.find(self._text, self._at)
        if found is not None:
            text = self.take(found[0] - self._at)
            return text, self.take(len(found[1]))
        return self.take(len(self._text) - self._at - delimiters.held(self._text, self._at)), None

    def skip_space(self) -> str:
        """Read the white space that comes next."""
        at = self._at
        while at < len(self._text) and self._text[at].isspace():
            at += 1
        return self.take(at - self._at)

    def starts_with(self, expected: str) -> bool | None:
        """Whether `expected` comes next; None if too little has come to tell."""
        ahead = self.peek(len(expected))
        if ahead == expected:
            return True
        return None if expected.startswith(ahead) else False

    def take_to(self, pattern: re.Pattern[str]) -> tuple[str, str]:
        """Read up to the first match of `pattern`, or all; and what comes next, "" if nothing."""
        found = pattern.search(self._text, self._at)
        end = len(self._text) if found is None else found.start()
        return self.take(end - self._at), self._text[end : end + 1]

    def start_record(self, text: str) -> None:
        """Keep what is read from here on, after `text`."""
        self._record = [text]

    def stop_record(self) -> str:
        """What was read since the record was started."""
        record, self._record = self._record, None
        return "".join(record or ())
