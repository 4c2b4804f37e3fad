"""The stream of a response: every event numbered without a gap, every item opened, filled and closed in turn.

The answer in one piece is made by the same steps, so the two cannot differ.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stepahead.server.api_error import ApiError
from stepahead.server.responses.output_items import (
    CallItem,
    CustomCallItem,
    Event,
    MessageItem,
    ReasoningItem,
)
from stepahead.server.responses.response import ResponseObject, usage
from stepahead.server.responses.tool_names import ToolNames
from stepahead.server.sse import frame
from stepahead.server.turn_frames import OneChoice
from stepahead.server.turn_service import TokenLogprob, TurnEnd, TurnStep
from stepahead.turns import event as turns
from stepahead.turns.turn_text import coalesced


class ResponseEvents(OneChoice):
    """Frames of one response, in the order of the calls: begin, push ..., end or fail; keepalive in between."""

    def __init__(self, response: ResponseObject, names: ToolNames) -> None:
        super().__init__()
        self._response = response
        self._names = names
        self._number = 0
        self._done: list[dict[str, Any]] = []
        self._open: ReasoningItem | MessageItem | CallItem | CustomCallItem | None = None
        self._logprobs: list[TokenLogprob] = []  # of tokens whose text has not come yet

    def begin(self, num_prompt_tokens: int) -> bytes:
        started = {"response": self._response.as_object("in_progress", [])}
        return self._frames([("response.created", started), ("response.in_progress", started)])

    def keepalive(self) -> bytes:
        """Codex takes comments for silence, so this is an event; clients that do not know it pass over it."""
        return self._frames([("keepalive", {})])

    def push(self, step: TurnStep) -> bytes:
        self._logprobs += step.logprobs
        return self._frames(event for one in coalesced(step.events) for event in self._told(one))

    def end(self, end: TurnEnd) -> tuple[bytes, dict[str, Any]]:
        """The last frames, and the finished response."""
        is_cut = end.finish_reason in ("length", "context_length")
        status = "incomplete" if is_cut else "completed"
        frames = self._frames(self._closed(status))
        response = self._response.as_object(status, self._output(), usage(end))
        return frames + self._frames([(f"response.{status}", {"response": response})]), response

    def fail(self, error: ApiError) -> bytes:
        """The last frame, with the response as far as it came."""
        response = self._response.as_object("failed", self._output(), error=error)
        return self._frames([("response.failed", {"response": response})])

    def _told(self, event: turns.Event) -> Iterable[Event]:
        item = self._open
        if isinstance(event, turns.ReasoningText):
            if not isinstance(item, ReasoningItem):
                item = ReasoningItem(*self._next_place(), self._response.seal)
                yield from self._opened(item)
            yield from item.push(event.text)
        elif isinstance(event, turns.ContentText):
            if not isinstance(item, MessageItem):
                item = MessageItem(*self._next_place())
                yield from self._opened(item)
            logprobs, self._logprobs = self._logprobs, []
            yield from item.push(event.text, logprobs)
        elif isinstance(event, turns.CallStarted):
            wire = self._names.for_client(event.name)
            kind = CustomCallItem if wire.kind == "custom" else CallItem
            yield from self._opened(kind(*self._next_place(), event.call_id, wire))
        elif isinstance(event, turns.CallArguments):
            assert isinstance(item, CallItem | CustomCallItem), "arguments without a call"
            yield from item.push(event.json_text)
        else:
            yield from self._closed("completed", is_call_complete=True)

    def _next_place(self) -> tuple[int, str]:
        return len(self._done) + (self._open is not None), self._response.identity

    def _opened(self, item: ReasoningItem | MessageItem | CallItem | CustomCallItem) -> Iterable[Event]:
        yield from self._closed("completed")
        self._open = item
        yield from item.opening()

    def _closed(self, status: str, is_call_complete: bool = False) -> Iterable[Event]:
        """A call that was cut off is never said to be done: Codex would run it. The last event lists it."""
        item, self._open = self._open, None
        if item is None:
            return
        if isinstance(item, CallItem | CustomCallItem) and not is_call_complete:
            self._done.append(item.item("incomplete"))
            return
        for event in item.closing(status):
            yield event
            self._done += [event[1]["item"]] if "item" in event[1] else []

    def _output(self) -> Sequence[Mapping[str, Any]]:
        return self._done if self._open is None else [*self._done, self._open.item("incomplete")]

    def _frames(self, events: Iterable[Event]) -> bytes:
        frames = []
        for kind, fields in events:
            frames.append(frame({"type": kind, "sequence_number": self._number, **fields}, kind))
            self._number += 1
        return b"".join(frames)
