"""A model's tokens to the events of its turn, one token at a time.

Owns what is between tokens and text: unfinished characters, control tokens, stop strings. Must not know how calls are
written.
"""

import codecs
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from stepahead.tokenizer.stop_strings import StopStrings
from stepahead.tokenizer.tokenizer import Tokenizer
from stepahead.turns.call_parser import TurnParser
from stepahead.turns.event import CallArguments, CallEnded, CallStarted, ContentText, Event, ReasoningText
from stepahead.turns.tool import Tool
from stepahead.turns.turn_format import TurnFormat


class TurnText:
    """The text of one growing turn: an engine's text stream whose text is the content, and the events beside it.

    `push` and `flush` return what content they release; `take_events` has all of it, content too. One thread at a time.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        turn_format: TurnFormat,
        tools: Sequence[Tool] = (),
        stops: str | Sequence[str] = (),
        *,
        starts_in_reasoning: bool,
        parses_calls: bool,
        is_parallel: bool,
        make_call_id: Callable[[], str],
        buffers_calls: bool = False,
    ) -> None:
        """`stops` end content alone: neither reasoning nor calls. Without `parses_calls` calls are text; unless
        `is_parallel` the first complete call ends the turn. `buffers_calls`: a call is told when it is complete, and
        one that never is, or breaks off, is content; else it is told as it comes.

        Raises RequestError for a stop string that is empty or not text.
        """
        self._tokenizer = tokenizer
        self._marks = {mark.token_id: mark.symbol for mark in turn_format.marks if mark.token_id is not None}
        self._hidden = tokenizer.control_ids
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._parser = TurnParser(
            turn_format,
            {tool.name: tool for tool in tools} if parses_calls else {},
            starts_in_reasoning=starts_in_reasoning,
            make_call_id=make_call_id,
            buffers_calls=buffers_calls,
        )
        self._stop_texts = (stops,) if isinstance(stops, str) else tuple(stops)
        self._stops = StopStrings(self._stop_texts)
        self._is_parallel = is_parallel
        self._is_over = False  # one call was enough
        self._events: list[Event] = []
        self.num_reasoning_tokens = 0  # the one that ends it is among them
        self.num_complete_calls = 0

    @property
    def stopped(self) -> bool:
        """Whether the turn is over, by a stop string or a call."""
        return self._is_over or self._stops.matched is not None

    @property
    def matched_stop(self) -> str | None:
        """The stop string that ended the content."""
        return self._stops.matched

    @property
    def is_reasoning(self) -> bool:
        """Whether the next token belongs to the reasoning."""
        return self._parser.is_reasoning

    @property
    def is_in_call(self) -> bool:
        """Whether the next token belongs to a call, or to what looks like one so far."""
        return self._parser.is_in_call

    @property
    def num_broken_calls(self) -> int:
        """Calls that were announced and then went on as something else."""
        return self._parser.num_broken_calls

    @property
    def num_reasoning_calls(self) -> int:
        """Marks of calls within the reasoning, where they mean nothing."""
        return self._parser.num_reasoning_calls

    @property
    def has_unfinished_call(self) -> bool:
        """After `flush`: whether the turn was cut off within a call."""
        return self._parser.unfinished_call is not None

    @property
    def unfinished_call(self) -> str | None:
        """After `flush`: the call that was cut off, verbatim. It is no content if its beginning was told."""
        return self._parser.unfinished_call

    def push(self, token_id: int) -> str:
        """Add a token; returns the content that it releases, which may be empty.

        When it is over nothing more is told. Raises RequestError for an id outside the vocabulary.
        """
        data = self._tokenizer.token_bytes(token_id)
        if self.stopped:
            return ""
        self.num_reasoning_tokens += self._parser.is_reasoning
        symbol = self._marks.get(token_id)
        if symbol is not None:
            text = self._decoder.decode(b"", final=True) + symbol
        elif token_id in self._hidden:
            return ""
        else:
            text = self._decoder.decode(data)
        return self._deliver(self._parser.push(text)) if text else ""

    def flush(self) -> str:
        """What was held back, at the end of the turn: an unfinished character becomes U+FFFD."""
        if self.stopped:
            return ""
        content = self._deliver(self._parser.push(self._decoder.decode(b"", final=True)))
        if not self.stopped:
            content += self._deliver(self._parser.finish())
        if not self.stopped:
            content += self._release_content()
        return content

    def take_events(self) -> list[Event]:
        """What happened since this was last asked; neighbours of one kind are one event."""
        events, self._events = self._events, []
        return coalesced(events)

    def _deliver(self, events: list[Event]) -> str:
        """Pass events on, content through the stop strings, until one ends the turn."""
        shown = []
        for event in events:
            if isinstance(event, ContentText):
                shown.append(self._stops.push(event.text))
                self._add_content(shown[-1])
            else:
                if isinstance(event, CallStarted):
                    shown.append(self._release_content())
                self._events.append(event)
            if isinstance(event, CallEnded):
                self.num_complete_calls += 1
                self._is_over = not self._is_parallel
            if self.stopped:
                break
        return "".join(shown)

    def _release_content(self) -> str:
        """What may have been the beginning of a stop string is none: the content ends here."""
        held = self._stops.flush()
        if self._stop_texts:
            self._stops = StopStrings(self._stop_texts)
        self._add_content(held)
        return held

    def _add_content(self, text: str) -> None:
        if text:
            self._events.append(ContentText(text))


def coalesced(events: Iterable[Event]) -> list[Event]:
    """The same events with neighbouring pieces of one text joined."""
    joined: list[Event] = []
    for _, group in groupby(events, key=lambda event: (type(event), getattr(event, "index", None))):
        pieces = list(group)
        first = pieces[0]
        if isinstance(first, ReasoningText | ContentText):
            texts = [piece.text for piece in pieces if isinstance(piece, ReasoningText | ContentText)]
            joined.append(type(first)("".join(texts)))
        elif isinstance(first, CallArguments):
            texts = [piece.json_text for piece in pieces if isinstance(piece, CallArguments)]
            joined.append(CallArguments(first.index, "".join(texts)))
        else:
            joined += pieces
    return joined
