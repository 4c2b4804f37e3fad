"""Calls as Hermes and many others write them: an object with the function's name and its arguments."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from stepahead.turns.call_reader import MAX_SPACE, CallSink, Fate
from stepahead.turns.json_stream import JsonStream
from stepahead.turns.plain_json import loads
from stepahead.turns.text_window import Delimiters, TextWindow
from stepahead.turns.tool import Tool

_BEFORE_NAME = ("{", '"name"', ":", '"')
_AFTER_NAME = (('"', ",", '"arguments"', ":", "{"), ('"', ",", '"parameters"', ":", "{"))


class HermesCallSyntax:
    """What all calls of one turn have in common."""

    def __init__(self, tools: Mapping[str, Tool], call_close: str) -> None:
        """`call_close`: the closing mark as it stands in the text."""
        self.tools = tools
        self.call_close = call_close
        self.ends = Delimiters((call_close,))
        self.max_header = MAX_SPACE + max(map(len, tools), default=0) + 64

    def reader(self, window: TextWindow, sink: CallSink) -> "HermesCall":
        return HermesCall(self, window, sink)


class HermesCall:
    """One call. A reader of calls: see call_reader.CallReader.

    Arguments that follow their name go on as they come. A call written any other way is read whole.
    """

    def __init__(self, syntax: HermesCallSyntax, window: TextWindow, sink: CallSink) -> None:
        self._syntax = syntax
        self._window = window
        self._sink = sink
        self._stream = JsonStream(window, sink.add)
        self._next: Callable[[], Fate] = self._read_header
        self._whole: list[str] = []
        self.tail: tuple[str, ...] = ("}", syntax.call_close)

    def step(self) -> Fate:
        return self._next()

    def closing(self) -> str:
        return self._stream.closing()

    def _read_header(self) -> Fate:
        """Up to the { of the arguments. The window stays where it is until the name is known to be a tool's."""
        ahead = self._window.peek(self._syntax.max_header)
        start = _walk(ahead, 0, _BEFORE_NAME)
        if start < 0:
            return self._not_yet_or_whole(start, ahead)
        name, end, _ = ahead[start:].partition('"')
        if end and name in self._syntax.tools:
            stop = max(_walk(ahead, start + len(name), way) for way in _AFTER_NAME)
            if stop < 0:
                return self._not_yet_or_whole(stop, ahead)
            self._window.take(stop - 1)  # the arguments begin with their {
            self._sink.start(name)
            self._next = self._stream.step
            return Fate.RUNS
        is_possible = not end and any(tool.startswith(name) for tool in self._syntax.tools)
        return Fate.WAITS if is_possible else Fate.REFUSED

    def _not_yet_or_whole(self, outcome: int, ahead: str) -> Fate:
        """For a header that does not go on as expected, or not yet."""
        if outcome == _TOO_SHORT:
            return Fate.WAITS if len(ahead) < self._syntax.max_header else Fate.REFUSED
        if not ahead.lstrip().startswith("{"):
            return Fate.REFUSED
        self._next = self._read_whole
        return Fate.RUNS

    def _read_whole(self) -> Fate:
        """A call whose arguments come before the name, or are none, or are JSON within a string."""
        text, end = self._window.take_before(self._syntax.ends)
        self._whole.append(text)
        if end is None:
            return Fate.WAITS
        try:
            name, arguments = _name_and_arguments("".join(self._whole))
        except ValueError:
            return Fate.REFUSED
        if name not in self._syntax.tools:
            return Fate.REFUSED
        self.tail = ()
        self._sink.start(name)
        self._sink.add(arguments)
        return Fate.ENDED


_TOO_SHORT, _DIFFERS = -1, -2


def _walk(text: str, at: int, parts: tuple[str, ...]) -> int:
    """Where `parts`, with white space before each, end in `text` from `at` on; or one of the two constants."""
    for part in parts:
        rest = text[at:].lstrip()
        if not rest.startswith(part):
            return _TOO_SHORT if part.startswith(rest) else _DIFFERS
        at = len(text) - len(rest) + len(part)
    return at


def _name_and_arguments(text: str) -> tuple[str, str]:
    """Raises ValueError for what is no call."""
    call = _loaded(text)
    arguments = call.get("arguments", call.get("parameters"))
    if isinstance(arguments, str):
        arguments = _loaded(arguments)
    if arguments is None:
        arguments = {}
    if not isinstance(call.get("name"), str) or not isinstance(arguments, dict):
        raise ValueError("no call")
    return call["name"], json.dumps(arguments, ensure_ascii=False)


def _loaded(text: str) -> dict[str, Any]:
    value = loads(text)
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value
