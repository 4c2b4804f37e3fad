"""One choice of an answer: what the engine's thread makes of its steps, and how it ended."""

from collections.abc import Iterable, Mapping
from typing import Any

from stepahead.async_llm import Ticket, UnavailableError
from stepahead.engine.request import FinishReason as EngineReason
from stepahead.engine.request import RequestOutput, Sequence, SpeculationStats, TextStream
from stepahead.errors import RequestError
from stepahead.server.api_error import Kind
from stepahead.server.errors import UNEXPECTED
from stepahead.server.statistics import Clock, timings
from stepahead.server.turn_service import FinishReason, TokenLogprob, TurnEnd, TurnStep
from stepahead.tokenizer import Detokenizer, Tokenizer
from stepahead.turns.event import CallArguments, CallEnded, CallStarted, ContentText, Event, ReasoningText
from stepahead.turns.reasoning_memory import ReasoningMemory
from stepahead.turns.said import said_by
from stepahead.turns.turn_memory import TurnMemory
from stepahead.turns.turn_text import TurnText

GRAMMAR_ERROR = "GrammarError"
"""The name of grammar/grammar_error.py's, as the engine tells what ended a sequence; its library may be missing."""


class PlainText:
    """The text stream of a completion: all of it is content."""

    num_reasoning_tokens = 0
    num_complete_calls = 0

    def __init__(self, tokenizer: Tokenizer, stops: tuple[str, ...]) -> None:
        self._text = Detokenizer(tokenizer, skip_special=True, stop=stops)
        self._new: list[str] = []

    @property
    def stopped(self) -> bool:
        return self._text.stopped

    @property
    def matched_stop(self) -> str | None:
        return self._text.matched_stop

    def push(self, token_id: int) -> str:
        self._new.append(self._text.push(token_id))
        return self._new[-1]

    def flush(self) -> str:
        self._new.append(self._text.flush())
        return self._new[-1]

    def take_events(self) -> list[Event]:
        text = "".join(self._new)
        self._new.clear()
        return [ContentText(text)] if text else []


class MarkedText:
    """A TurnText that also tells which tokens were content: log-probabilities are given of these alone."""

    def __init__(self, text: TurnText) -> None:
        self._text = text
        self.is_content: list[bool] = []

    @property
    def stopped(self) -> bool:
        return self._text.stopped

    @property
    def matched_stop(self) -> str | None:
        return self._text.matched_stop

    def push(self, token_id: int) -> str:
        is_content = not self._text.is_reasoning and not self._text.is_in_call
        piece = self._text.push(token_id)
        self.is_content.append(is_content and not self._text.is_in_call)
        return piece

    def flush(self) -> str:
        return self._text.flush()


class Choice:
    """Collects a choice's steps; `collect` is for AsyncLLM, the rest is read after the choice is done."""

    def __init__(
        self, index: int, text: TurnText | PlainText, tokenizer: Tokenizer, is_clamped: bool, has_logprobs: bool
    ) -> None:
        """is_clamped: the context has less room than the caller asked for."""
        self.index = index
        self.text = text
        self._marks = MarkedText(text) if has_logprobs and isinstance(text, TurnText) else None
        self.clock = Clock()
        self._tokenizer = tokenizer
        self._is_clamped = is_clamped
        self._num_drafted = 0
        self._num_told = 0  # tokens whose log-probabilities are told
        self._said: list[Event] = []
        self.place: bytes | None = None  # of a turn: see turns/turn_memory.py

    @property
    def stream(self) -> TextStream:
        """What the engine pushes tokens into."""
        return self._marks or self.text

    def collect(self, output: RequestOutput, sequence: Sequence) -> TurnStep:
        """By the engine's thread, between steps."""
        num_drafted = sequence.stats.num_draft_tokens - self._num_drafted
        self._num_drafted += num_drafted
        return TurnStep(
            choice=self.index,
            events=tuple(self.text.take_events()),
            num_tokens=len(output.token_ids_delta),
            num_accepted=output.num_accepted,
            logprobs=self._logprobs(output, sequence),
            num_drafted=num_drafted,
            pieces=output.pieces,
        )

    def _logprobs(self, output: RequestOutput, sequence: Sequence) -> tuple[TokenLogprob, ...]:
        """Of the step's tokens, but for the one that ends the text and is no part of it."""
        num_best = sequence.request.params.logprobs
        if num_best is None:
            return ()
        first, self._num_told = self._num_told, sequence.num_output_tokens
        marks = None if self._marks is None else self._marks.is_content
        told = []
        for number, token_id in enumerate(output.token_ids_delta, first):
            is_content = marks is None or (number < len(marks) and marks[number])
            if is_content and token_id not in sequence.request.end_ids:
                told.append(self._token_logprob(token_id, sequence.logprobs[number], num_best))
        return tuple(told)

    def _token_logprob(self, token_id: int, best: Mapping[int, float], num_best: int) -> TokenLogprob:
        top = tuple((self._tokenizer.token_bytes(one), value) for one, value in list(best.items())[:num_best])
        return TokenLogprob(self._tokenizer.token_bytes(token_id), best[token_id], top)

    def note(self, events: Iterable[Event]) -> None:
        """Keep what was said, for conversations that go on."""
        self._said += events

    def remember(self, ticket: Ticket, reasoning: ReasoningMemory, turns: TurnMemory, salt: str) -> None:
        """After the last step: what clients will not send back, or will send back in another form."""
        ended = {event.index for event in self._said if isinstance(event, CallEnded)}
        calls = [call for index, call in self._calls().items() if index in ended]
        thought = "".join(event.text for event in self._said if isinstance(event, ReasoningText))
        if calls and thought:
            reasoning.remember(thought, calls, salt)
        token_ids = self._whole_turn(ticket.sequence)
        if self.place is not None and token_ids:
            turns.remember(self.place, said_by(self._said), token_ids)

    def _calls(self) -> dict[int, dict[str, Any]]:
        """As in a message's tool_calls, by their index."""
        calls: dict[int, dict[str, Any]] = {}
        for event in self._said:
            if isinstance(event, CallStarted):
                calls[event.index] = {"id": event.call_id, "function": {"name": event.name, "arguments": ""}}
            elif isinstance(event, CallArguments):
                calls[event.index]["function"]["arguments"] += event.json_text
        return calls

    def _whole_turn(self, sequence: Sequence | None) -> list[int] | None:
        """Its tokens, if it came to its own end, all of it was told, and nothing of it was mended."""
        text = self.text
        if sequence is None or sequence.finish_reason is not EngineReason.STOP or not isinstance(text, TurnText):
            return None
        token_ids = sequence.output_ids
        if isinstance(sequence.stop_reason, int):
            token_ids = token_ids[:-1]
        elif text.stopped:
            return None
        is_whole = not text.num_broken_calls and not text.has_unfinished_call
        return token_ids if is_whole and self._tokenizer.end_ids.isdisjoint(token_ids) else None

    def end(self, ticket: Ticket) -> TurnEnd:
        """How it ended; in the event loop, after the last step."""
        sequence = ticket.sequence
        times = timings(ticket, self.clock)
        error_kind, error = _error(ticket)
        stop = None if sequence is None or not isinstance(sequence.stop_reason, str) else sequence.stop_reason
        return TurnEnd(
            choice=self.index,
            finish_reason="error" if error is not None else self._finish_reason(sequence),
            stop_sequence=None if error is not None else stop,
            prompt_tokens=len(ticket.request.prompt_ids),
            cached_tokens=times["cache_n"],
            completion_tokens=times["predicted_n"],
            reasoning_tokens=self.text.num_reasoning_tokens,
            speculation=SpeculationStats() if sequence is None else sequence.stats,
            timings=times,
            error=error,
            error_kind=error_kind,
        )

    def _finish_reason(self, sequence: Sequence | None) -> FinishReason:
        if sequence is None or sequence.finish_reason is EngineReason.LENGTH:
            return "context_length" if self._is_clamped else "length"
        if isinstance(sequence.stop_reason, str):
            return "stop_sequence"
        return "tool_calls" if self.text.num_complete_calls > 0 else "stop"


def _error(ticket: Ticket) -> tuple[Kind, str | None]:
    """Whose fault it was that a choice broke off, and what may be told of it; the log has the rest."""
    sequence = ticket.sequence
    if isinstance(ticket.error, UnavailableError):
        return "overloaded", str(ticket.error)
    if isinstance(ticket.error, RequestError):
        return "invalid_request", f"the request cannot go on: {ticket.error}"[:300]
    if ticket.error is not None or sequence is None:
        return "internal", UNEXPECTED
    if sequence.finish_reason is EngineReason.ABORT:
        kind, _, said = str(sequence.stop_reason).partition(": ")
        if kind == GRAMMAR_ERROR:
            return "invalid_request", f"the request cannot go on: {said}"[:300]
        return "internal", UNEXPECTED
    return "internal", None
