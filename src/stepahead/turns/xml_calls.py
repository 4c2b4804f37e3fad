"""Calls as Step and Qwen3-Coder write them: tags as in XML around raw text, which is no XML and needs no escapes."""

import logging
from collections.abc import Callable, Mapping

from stepahead.turns.argument_types import STRING, argument_types, as_json
from stepahead.turns.call_reader import MAX_NAME, MAX_SPACE, CallSink, Fate
from stepahead.turns.plain_json import json_string
from stepahead.turns.text_window import Delimiters, TextWindow
from stepahead.turns.tool import Tool

logger = logging.getLogger(__name__)

_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"


class XmlCallSyntax:
    """What all calls of one turn have in common."""

    def __init__(self, tools: Mapping[str, Tool], call_close: str) -> None:
        """`call_close`: the closing mark as it stands in the text."""
        self.tools = tools
        self.call_close = call_close
        # A value ends at its own tag on a line of its own. That a model forgets the tag is believed only if the whole
        # end of the call comes.
        forgotten = f"\n{_FUNCTION_END}\n{call_close}"
        self.block_ends = Delimiters((f"\n{_PARAMETER_END}", forgotten))
        self.inline_ends = Delimiters((f"\n{_PARAMETER_END}", _PARAMETER_END, forgotten))
        self.forgotten = forgotten
        self.max_header = MAX_SPACE + len(_FUNCTION) + max(map(len, tools), default=0) + 2

    def reader(self, window: TextWindow, sink: CallSink) -> "XmlCall":
        return XmlCall(self, window, sink)


class XmlCall:
    """One call. A reader of calls: see call_reader.CallReader."""

    def __init__(self, syntax: XmlCallSyntax, window: TextWindow, sink: CallSink) -> None:
        self._syntax = syntax
        self._window = window
        self._sink = sink
        self._next: Callable[[], Fate] = self._read_name
        self._types = argument_types(None)
        self._seen: set[str] = set()
        self._type = STRING
        self._is_dropped = False  # the value is of a parameter that was there before
        self._ends = syntax.block_ends
        self._key = ""  # of the parameter, until its value begins: what stands before it in the JSON text
        self._buffer: list[str] = []  # the value, where it must be complete to become JSON
        self._is_tail_read = False

    def step(self) -> Fate:
        return self._next()

    def closing(self) -> str:
        return "}" if self._seen else "{}"

    @property
    def tail(self) -> tuple[str, ...]:
        return () if self._is_tail_read else (self._syntax.call_close,)

    def _read_name(self) -> Fate:
        """Up to the > of <function=NAME>. The window stays where it is until the name is known to be a tool's."""
        ahead = self._window.peek(self._syntax.max_header)
        header = ahead.lstrip()
        num_spaces = len(ahead) - len(header)
        if num_spaces > MAX_SPACE:
            return Fate.REFUSED
        if not header.startswith(_FUNCTION):
            return Fate.WAITS if _FUNCTION.startswith(header) else Fate.REFUSED
        name, end, _ = header[len(_FUNCTION) :].partition(">")
        if not end:
            return Fate.WAITS if any(tool.startswith(name) for tool in self._syntax.tools) else Fate.REFUSED
        if name not in self._syntax.tools:
            return Fate.REFUSED
        self._window.take(num_spaces + len(_FUNCTION) + len(name) + 1)
        self._types = argument_types(self._syntax.tools[name].parameters)
        self._sink.start(name)
        self._next = self._read_between
        return Fate.RUNS

    def _read_between(self) -> Fate:
        """Before a parameter, or the end."""
        window = self._window
        window.skip_space()
        if window.is_empty:
            return Fate.WAITS
        found = {
            mark: window.starts_with(mark)
            for mark in (_PARAMETER, _FUNCTION_END, self._syntax.call_close, _PARAMETER_END)
        }
        if found[_PARAMETER]:
            window.take(len(_PARAMETER))
            self._next = self._read_parameter_name
            return Fate.RUNS
        if found[_FUNCTION_END]:
            window.take(len(_FUNCTION_END))
            return self._end()
        if found[self._syntax.call_close]:
            return self._end()  # a forgotten </function>
        if found[_PARAMETER_END]:
            window.take(len(_PARAMETER_END))  # said twice, which is no reason to lose the call
            return Fate.RUNS
        return Fate.WAITS if None in found.values() else Fate.BROKEN

    def _read_parameter_name(self) -> Fate:
        name, end, _ = self._window.peek(MAX_NAME + 1).partition(">")
        if "\n" in name or len(name) > MAX_NAME:
            return Fate.BROKEN
        if not end:
            return Fate.WAITS
        self._window.take(len(name) + 1)
        self._is_dropped = name in self._seen
        if self._is_dropped:
            logger.warning("a call gives a parameter twice; the first value counts, since it was sent")
        self._key = f"{',' if self._seen else '{'}{json_string(name)}:"
        self._seen.add(name)
        self._type = self._types.get(name, STRING)
        self._next = self._begin_value
        return Fate.RUNS

    def _begin_value(self) -> Fate:
        """The newline after > is no part of the value; but it may be the one before </parameter>."""
        window = self._window
        if window.is_empty:
            return Fate.WAITS
        is_block = window.starts_with("\n")
        if is_block:
            starts = (window.starts_with(f"\n{_PARAMETER_END}"), window.starts_with(self._syntax.forgotten))
            if True not in starts:
                if None in starts:
                    return Fate.WAITS
                window.take(1)
        self._ends = self._syntax.block_ends if is_block else self._syntax.inline_ends
        if self._type == STRING:
            self._add(f'{self._key}"')
        self._next = self._read_value
        return Fate.RUNS

    def _read_value(self) -> Fate:
        text, end = self._window.take_before(self._ends)
        if self._type == STRING:
            self._add(json_string(text)[1:-1])
        else:
            self._buffer.append(text)
        if end is None:
            return Fate.WAITS
        if self._type == STRING:
            self._add('"')
        else:
            self._add(self._key + as_json("".join(self._buffer), self._type))
            self._buffer = []
        self._next = self._read_between
        if end != self._syntax.forgotten:
            return Fate.RUNS
        self._is_tail_read = True
        return self._end()

    def _add(self, json_text: str) -> None:
        if json_text and not self._is_dropped:
            self._sink.add(json_text)

    def _end(self) -> Fate:
        self._sink.add(self.closing())
        return Fate.ENDED
