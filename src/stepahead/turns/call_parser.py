"""A turn's text to events, character by character: where the text is cut has no influence on what comes out.

Owns the order of reasoning, content and calls, and the fate of what is none of them. Must not know tokens.
"""

import logging
from collections.abc import Callable, Mapping

from stepahead.turns.call_reader import MAX_SPACE, CallReader, CallSink, CallSyntaxReader, Fate
from stepahead.turns.event import CallArguments, CallEnded, CallStarted, ContentText, Event, ReasoningText
from stepahead.turns.hermes_calls import HermesCallSyntax
from stepahead.turns.text_window import Delimiters, TextWindow
from stepahead.turns.tool import Tool
from stepahead.turns.turn_format import CallSyntax, TurnFormat
from stepahead.turns.xml_calls import XmlCallSyntax

logger = logging.getLogger(__name__)


class TurnParser:
    """Parses one turn. Nothing is lost, nothing raises; at most the longest delimiter is held back, and what has to be
    complete to have a meaning: a name, and values other than strings."""

    def __init__(
        self,
        turn_format: TurnFormat,
        tools: Mapping[str, Tool],
        *,
        starts_in_reasoning: bool,
        make_call_id: Callable[[], str],
        buffers_calls: bool = False,
    ) -> None:
        """`tools` by name; none: calls are text. `buffers_calls`: a call is told when it is complete, and one that
        never is, or is broken, is text; else it is told as it comes."""
        self._format = turn_format
        self._make_call_id = make_call_id
        self._buffers_calls = buffers_calls
        self._window = TextWindow()
        self._syntax = _call_syntax(turn_format, tools)
        self._verbatim = {ord(mark.symbol): mark.text for mark in turn_format.marks if mark.token_id is not None}
        self._shown = {
            **self._verbatim,
            **{ord(mark.symbol): "" for mark in (turn_format.think_open, turn_format.think_close) if mark.is_hidden},
        }
        think_close, call_open = turn_format.think_close.symbol, turn_format.call_open.symbol
        self._reasoning_ends = Delimiters((f"\n{think_close}", think_close))
        before_call = range(turn_format.newlines_before_call + 1)
        self._content_ends = Delimiters(["\n" * count + call_open for count in before_call] if self._syntax else [])
        self._is_reasoning = starts_in_reasoning and turn_format.has_reasoning
        self._next = self._begin if turn_format.has_reasoning else self._read_content
        self._newlines_due = 0  # that belong to a mark and may come next
        self._space = ""  # white space at the beginning of content: it is none if a call follows
        self._is_space = True  # no other content since the beginning or the last call
        self._reader: CallReader | None = None
        self._tail: list[str] = []
        self._has_announced = False
        self._events: list[Event] = []
        self._held_events: list[Event] = []  # of a call, if calls are buffered
        self.num_calls = 0  # announced, so that the next has this index
        self.num_broken_calls = 0
        self.num_reasoning_calls = 0  # call marks within reasoning: text, but a sign that the template is wrong
        self.unfinished_call: str | None = None  # verbatim, of a call that the end of the turn cut off

    @property
    def is_reasoning(self) -> bool:
        """Whether what comes next belongs to the reasoning."""
        return self._is_reasoning

    @property
    def is_in_call(self) -> bool:
        """Whether a call was begun and has not ended."""
        return self._reader is not None

    def push(self, text: str) -> list[Event]:
        """What can be told now. Marks that are tokens stand as their symbols."""
        self._window.push(text)
        while self._next():
            pass
        events, self._events = self._events, []
        return events

    def finish(self) -> list[Event]:
        """What was held back, at the end of the turn."""
        if self._reader is not None:
            self._cut_call_off(self._reader)
        elif self._is_reasoning:
            self._reason(self._window.take_rest())
        else:
            self._say(self._window.take_rest())
        if self.num_calls == 0:
            self._emit_content(self._space)
        self._space = ""
        events, self._events = self._events, []
        return events

    # Each of the following reads one thing. False: it needs more text.

    def _begin(self) -> bool:
        """The turn may open its reasoning, even if the prompt did so before."""
        window = self._window
        if not self._is_reasoning:
            self._say(window.skip_space())
        found = window.starts_with(self._format.think_open.symbol)
        if found is None:
            return False
        if found:
            window.take(len(self._format.think_open.symbol))
            self._is_reasoning = True
            self._newlines_due = 1
            self._space = ""
        self._next = self._skip_newlines
        return True

    def _skip_newlines(self) -> bool:
        while self._newlines_due:
            found = self._window.starts_with("\n")
            if found is None:
                return False
            self._newlines_due = self._newlines_due - 1 if found else 0
            self._window.take(1 if found else 0)
        self._next = self._read_reasoning if self._is_reasoning else self._read_content
        return True

    def _read_reasoning(self) -> bool:
        text, end = self._window.take_before(self._reasoning_ends)
        self._reason(text)
        if end is None:
            return False
        self._is_reasoning = False
        self._newlines_due = self._format.newlines_after_reasoning
        self._next = self._skip_newlines
        return True

    def _read_content(self) -> bool:
        text, end = self._window.take_before(self._content_ends)
        self._say(text)
        if end is None or self._syntax is None:
            return False
        self._window.start_record(end)
        self._reader = self._syntax.reader(self._window, CallSink(self._announce, self._add_arguments))
        self._has_announced = False
        self._next = self._read_call
        return True

    def _read_call(self) -> bool:
        assert self._reader is not None
        fate = self._reader.step()
        if fate is Fate.WAITS:
            return False
        if fate is Fate.RUNS:
            return True
        raw = self._window.stop_record()
        reader, self._reader = self._reader, None
        self._next = self._read_content
        if fate is Fate.REFUSED:
            self._say(raw)
        elif fate is Fate.BROKEN:
            self._break(reader, raw)
        else:
            self._end_call()
            self._tail = list(reader.tail)
            self._next = self._read_tail
        return True

    def _read_tail(self) -> bool:
        found: bool | None = True
        while self._tail:
            self._say(self._window.skip_space())
            found = self._window.starts_with(self._tail[0])
            if found is None:
                return False
            part = self._tail.pop(0)
            self._window.take(len(part) if found else 0)
        if found:
            self._space = ""
        self._next = self._read_content
        return True

    def _break(self, reader: CallReader, raw: str) -> None:
        self.num_broken_calls += 1
        logger.warning("a tool call breaks off; what follows it is passed on as text")
        if self._buffers_calls:
            self._withdraw_call(raw)
        else:
            self._add_arguments(reader.closing())
            self._end_call()

    def _cut_call_off(self, reader: CallReader) -> None:
        """At the end of the turn: a call that was announced stays open; one that was not is text."""
        self._window.take_rest()
        raw = self._window.stop_record()
        self.unfinished_call = raw.translate(self._verbatim)
        if not self._has_announced:
            self._say(raw)
        elif self._buffers_calls:
            self._withdraw_call(raw)
        self._reader = None

    def _withdraw_call(self, raw: str) -> None:
        self._held_events = []
        self.num_calls -= 1
        self._say(raw)

    # What was read.

    def _reason(self, text: str) -> None:
        self.num_reasoning_calls += text.count(self._format.call_open.symbol)
        shown = text.translate(self._shown)
        if shown:
            self._events.append(ReasoningText(shown))

    def _say(self, text: str) -> None:
        """Content, or white space that may turn out to be none."""
        if self._is_space:
            text = self._space + text
            if len(text) <= MAX_SPACE and (text.isspace() or not text):
                self._space = text
                return
            self._is_space, self._space = False, ""
        self._emit_content(text)

    def _emit_content(self, text: str) -> None:
        shown = text.translate(self._shown)
        if shown:
            self._events.append(ContentText(shown))

    def _announce(self, name: str) -> None:
        if not self._buffers_calls:
            self._space, self._is_space = "", True
        self._has_announced = True
        self._tell(CallStarted(self.num_calls, self._make_call_id(), name))
        self.num_calls += 1

    def _add_arguments(self, json_text: str) -> None:
        if json_text:
            self._tell(CallArguments(self.num_calls - 1, json_text.translate(self._verbatim)))

    def _end_call(self) -> None:
        self._space, self._is_space = "", True
        self._tell(CallEnded(self.num_calls - 1))
        self._events += self._held_events
        self._held_events = []

    def _tell(self, event: Event) -> None:
        (self._held_events if self._buffers_calls else self._events).append(event)


def _call_syntax(turn_format: TurnFormat, tools: Mapping[str, Tool]) -> CallSyntaxReader | None:
    close = turn_format.call_close.symbol
    if not tools or turn_format.calls is CallSyntax.NONE:
        return None
    if turn_format.calls is CallSyntax.XML:
        return XmlCallSyntax(tools, close)
    return HermesCallSyntax(tools, close)
