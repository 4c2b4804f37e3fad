"""A JSON object read as it comes and passed on in pieces that can be closed at any time.

Owns JSON's grammar, and two slips that models make: lone backslashes and raw control characters in strings. Must not
know what the object is for.
"""

import math
import re
from collections.abc import Callable

from stepahead.turns.call_reader import Fate
from stepahead.turns.plain_json import MAX_DEPTH, json_string
from stepahead.turns.text_window import TextWindow

_MAX_SCALAR = 1000  # characters of a number

_SPECIAL = re.compile(r'["\\\x00-\x1f]')
_SCALAR_CHARS = re.compile(r"[A-Za-z0-9+.\-]*")
_SCALAR = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null", re.ASCII)
_AS_PYTHON = {"True": "true", "False": "false", "None": "null"}
_HEX = frozenset("0123456789abcdefABCDEF")
# An escaped first half of a character: what follows it must be the second.
_FIRST_HALF = re.compile(r"\\u[dD][89abAB]")
_SECOND_HALF = re.compile(r"\\u[dD][c-fC-F]")


class JsonStream:
    """Reads one object from a window. What is passed on so far, with `closing`, is always an object."""

    def __init__(self, window: TextWindow, add: Callable[[str], None]) -> None:
        self._window = window
        self._add = add
        self._stack: list[str] = []  # the brackets that close what is open
        self._held = ""  # a comma and a key, which wait for the value to begin: a comma before an end is dropped
        self._key: list[str] = []  # pieces of a key
        self._next: Callable[[], Fate] = self._read_value

    def step(self) -> Fate:
        return self._next()

    def closing(self) -> str:
        """What closes all that is open, outside of strings."""
        return "".join(reversed(self._stack))

    def _significant(self) -> str:
        self._window.skip_space()
        return self._window.peek(1)

    def _read_value(self) -> Fate:
        char = self._significant()
        if char == "":
            return Fate.WAITS
        if char == '"':
            self._release(self._window.take(1))
            self._next = self._read_string
        elif char in "{[" and len(self._stack) < MAX_DEPTH:
            self._release(self._window.take(1))
            self._stack.append("}" if char == "{" else "]")
            self._next = self._read_key_or_end if char == "{" else self._read_item_or_end
        elif char == "]" and self._stack[-1:] == ["]"]:
            return self._close()  # after a comma
        else:
            return self._read_scalar()
        return Fate.RUNS

    def _read_scalar(self) -> Fate:
        ahead = self._window.peek(_MAX_SCALAR + 1)
        found = _SCALAR_CHARS.match(ahead)
        text = found.group() if found else ""
        if len(text) > _MAX_SCALAR:
            return Fate.BROKEN
        if text and len(text) == len(ahead):
            return Fate.WAITS  # for what ends it
        value = _AS_PYTHON.get(text, text)
        if not _SCALAR.fullmatch(value):
            return Fate.BROKEN
        self._window.take(len(text))
        is_infinite = value[-1].isdigit() and math.isinf(float(value))  # 1e999
        self._release(json_string(value) if is_infinite else value)
        self._next = self._read_comma_or_end
        return Fate.RUNS

    def _read_item_or_end(self) -> Fate:
        char = self._significant()
        if char == "]":
            return self._close()
        self._next = self._read_value
        return Fate.RUNS if char else Fate.WAITS

    def _read_key_or_end(self) -> Fate:
        char = self._significant()
        if char == "}":
            return self._close()
        if char == '"':
            self._window.take(1)
            self._next = self._read_key
            return Fate.RUNS
        return Fate.BROKEN if char else Fate.WAITS

    def _read_key(self) -> Fate:
        fate = self._read_string_part(self._key.append)
        if fate is Fate.ENDED:
            self._held += f'"{"".join(self._key)}":'
            self._key = []
            self._next = self._read_colon
            return Fate.RUNS
        return fate

    def _read_colon(self) -> Fate:
        char = self._significant()
        if char == ":":
            self._window.take(1)
            self._next = self._read_value
            return Fate.RUNS
        return Fate.BROKEN if char else Fate.WAITS

    def _read_string(self) -> Fate:
        fate = self._read_string_part(self._add)
        if fate is Fate.ENDED:
            self._add('"')
            self._next = self._read_comma_or_end
            return Fate.RUNS
        return fate

    def _read_comma_or_end(self) -> Fate:
        char = self._significant()
        if char == ",":
            self._held = self._window.take(1)
            self._next = self._read_key_or_end if self._stack[-1] == "}" else self._read_value
            return Fate.RUNS
        if char == self._stack[-1]:
            return self._close()
        return Fate.BROKEN if char else Fate.WAITS

    def _read_string_part(self, add: Callable[[str], None]) -> Fate:
        """Up to the next character that needs a look; ENDED after the closing quote."""
        window = self._window
        text, special = window.take_to(_SPECIAL)
        if text:
            add(text)
        if special == "":
            return Fate.WAITS
        if special == '"':
            window.take(1)
            return Fate.ENDED
        if special != "\\":
            add(json_string(window.take(1))[1:-1])
            return Fate.RUNS
        return self._read_escape(add)

    def _read_escape(self, add: Callable[[str], None]) -> Fate:
        window = self._window
        escape = window.peek(12)
        if len(escape) == 1:
            return Fate.WAITS
        if escape[1] in '"\\/bfnrt':
            add(window.take(2))
            return Fate.RUNS
        if escape[1] != "u" or not _HEX.issuperset(escape[2:6]):
            window.take(1)
            add("\\\\")  # a lone backslash means itself
            return Fate.RUNS
        if len(escape) < 6:
            return Fate.WAITS
        if not _FIRST_HALF.match(escape):
            add(r"\ufffd" if _SECOND_HALF.match(escape) else escape[:6])
            window.take(6)
            return Fate.RUNS
        return self._read_pair(escape, add)

    def _read_pair(self, escape: str, add: Callable[[str], None]) -> Fate:
        """Two escapes that make one character; a first without a second is none."""
        second = escape[6:]
        if len(second) < 6 and r"\u".startswith(second[:2]) and _HEX.issuperset(second[2:]):
            return Fate.WAITS
        is_pair = bool(_SECOND_HALF.match(second)) and _HEX.issuperset(second[2:6])
        self._window.take(12 if is_pair else 6)
        add(escape if is_pair else r"\ufffd")
        return Fate.RUNS

    def _release(self, text: str) -> None:
        self._add(self._held + text)
        self._held = ""

    def _close(self) -> Fate:
        self._window.take(1)
        self._add(self._stack.pop())
        self._next = self._read_comma_or_end
        return Fate.RUNS if self._stack else Fate.ENDED
