"""The answer to a chat completion: frames of a stream, or one object, from the steps of a turn."""

from collections.abc import Iterator, Sequence
from typing import Any

from stepahead.server.api_error import ApiError
from stepahead.server.chat_request import ChatRequest
from stepahead.server.sse import DONE
from stepahead.server.step_extension import FIELD, step_extension
from stepahead.server.turn_service import PreparedTurn, Progress, TokenLogprob, TurnEnd, TurnStep
from stepahead.server.wire import (
    Envelope,
    compact,
    error_frame,
    finish_reason,
    members,
    prompt_progress,
    statistics,
    total_usage,
    usage,
)
from stepahead.turns.event import CallArguments, CallStarted, ContentText, Event, ReasoningText


class ChatStream:
    """Makes the frames of one stream: a TurnWriter."""

    def __init__(self, asked: ChatRequest, turn: PreparedTurn, reasoning_field: str) -> None:
        self._asked = asked
        self._turn = turn
        self._reasoning_field = reasoning_field
        self._envelope = Envelope("chatcmpl", "chat.completion.chunk", turn.model)
        self._ends: list[TurnEnd] = []
        self._num_tokens = 0
        self._num_cached = 0

    def begin(self, num_prompt_tokens: int) -> bytes:
        """The roles: the first byte goes out before the prompt is computed."""
        delta = {"role": "assistant", "content": ""}
        return b"".join(self._chunk(choice, delta) for choice in range(self._asked.turn.num_choices))

    def take(self, item: Progress | TurnStep | TurnEnd) -> bytes:
        """The frames that an item becomes; b"" if it is none."""
        if isinstance(item, TurnStep):
            self._num_tokens += item.num_tokens
            return b"".join(self._step(item))
        if isinstance(item, TurnEnd):
            self._ends.append(item)
            return self._end(item)
        self._num_cached = item.num_cached_tokens
        return self._progress(item) if self._asked.has_progress else b""

    def finish(self) -> bytes:
        return DONE

    def fail(self, error: ApiError) -> bytes:
        return error_frame(error)

    def _step(self, step: TurnStep) -> Iterator[bytes]:
        deltas = [(event, delta) for event in step.events if (delta := self._delta(event)) is not None]
        logprobs: dict[str, Any] | None = logprobs_object(step.logprobs) if step.logprobs else None
        if not self._asked.has_steps:
            for event, delta in deltas:
                is_content = isinstance(event, ContentText)
                yield self._chunk(step.choice, delta, logprobs if is_content else None)
                logprobs = None if is_content else logprobs
            return
        told = step_extension(step)
        if not deltas:
            yield self._chunk(step.choice, {}, None, {FIELD: told})
            return
        pieces = told.pop("pieces")
        for event, delta in deltas:
            is_content = isinstance(event, ContentText)
            told = {**told, "pieces": pieces} if is_content else told
            yield self._chunk(step.choice, delta, logprobs if is_content else None, {FIELD: told} if told else {})
            told, pieces, logprobs = {}, [] if is_content else pieces, None if is_content else logprobs

    def _delta(self, event: Event) -> dict[str, Any] | None:
        match event:
            case ContentText():
                return {"content": event.text}
            case ReasoningText():
                return {self._reasoning_field: event.text}
            case CallStarted():
                function = {"name": event.name, "arguments": ""}
                call = {"index": event.index, "id": event.call_id, "type": "function", "function": function}
                return {"tool_calls": [call]}
            case CallArguments():
                return {"tool_calls": [{"index": event.index, "function": {"arguments": event.json_text}}]}
        return None

    def _end(self, end: TurnEnd) -> bytes:
        is_last = len(self._ends) == self._asked.turn.num_choices
        extra = statistics(self._ends) if is_last and self._asked.has_steps else {}
        if not is_last or not self._asked.has_usage:
            return self._chunk(end.choice, {}, None, extra, finish_reason(end))
        finished = self._chunk(end.choice, {}, None, {}, finish_reason(end))
        counts = total_usage(self._ends, self._asked.turn.num_choices)
        return finished + self._envelope.frame("[]", members({"usage": counts, **extra}))

    def _progress(self, progress: Progress) -> bytes:
        return self._chunk(0, {}, None, {"prompt_progress": prompt_progress(progress)})

    def _chunk(
        self,
        choice: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        extra: dict[str, Any] | None = None,
        finish: str | None = None,
    ) -> bytes:
        if self._asked.has_usage_always:
            counts = usage(len(self._turn.prompt_ids), self._num_cached, self._num_tokens, 0)
            extra = {"usage": counts, **(extra or {})}
        elif self._asked.has_usage:
            extra = {"usage": None, **(extra or {})}
        body = (
            f'[{{"index":{choice},"delta":{compact(delta)},"logprobs":{compact(logprobs)},'
            f'"finish_reason":{compact(finish)}}}]'
        )
        return self._envelope.frame(body, members(extra) if extra else "")


class _Message:
    """One choice, put together."""

    def __init__(self) -> None:
        self.content: list[str] = []
        self.reasoning: list[str] = []
        self.calls: dict[int, dict[str, Any]] = {}
        self.logprobs: list[TokenLogprob] = []

    def take(self, step: TurnStep) -> None:
        self.logprobs += step.logprobs
        for event in step.events:
            match event:
                case ContentText():
                    self.content.append(event.text)
                case ReasoningText():
                    self.reasoning.append(event.text)
                case CallStarted():
                    function = {"name": event.name, "arguments": ""}
                    self.calls[event.index] = {"id": event.call_id, "type": "function", "function": function}
                case CallArguments():
                    self.calls[event.index]["function"]["arguments"] += event.json_text

    def as_object(self, reasoning_field: str) -> dict[str, Any]:
        content = "".join(self.content)
        message: dict[str, Any] = {"role": "assistant", "content": content or (None if self.calls else "")}
        message["refusal"] = None
        if self.reasoning:
            message[reasoning_field] = "".join(self.reasoning)
        if self.calls:
            message["tool_calls"] = list(self.calls.values())
        return message


class ChatAnswer:
    """Puts one object together: a TurnAnswer."""

    def __init__(self, asked: ChatRequest, turn: PreparedTurn, reasoning_field: str) -> None:
        self._asked = asked
        self._turn = turn
        self._reasoning_field = reasoning_field
        self._messages = [_Message() for _ in range(asked.turn.num_choices)]
        self._ends: dict[int, TurnEnd] = {}

    def take(self, item: Progress | TurnStep | TurnEnd) -> None:
        if isinstance(item, TurnStep):
            self._messages[item.choice].take(item)
        elif isinstance(item, TurnEnd):
            self._ends[item.choice] = item

    def as_object(self) -> dict[str, Any]:
        """After the last item."""
        ends = [self._ends[number] for number in range(len(self._messages))]
        choices = [
            {
                "index": number,
                "message": message.as_object(self._reasoning_field),
                "logprobs": logprobs_object(message.logprobs) if self._asked.turn.params.logprobs is not None else None,
                "finish_reason": finish_reason(ends[number]),
            }
            for number, message in enumerate(self._messages)
        ]
        return {
            **Envelope("chatcmpl", "chat.completion", self._turn.model).as_object(),
            "choices": choices,
            "usage": total_usage(ends, len(ends)),
            **(statistics(ends) if self._asked.has_steps else {}),
        }


def logprobs_object(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {
        "content": [
            {**_token(one.token, one.logprob), "top_logprobs": [_token(*best) for best in one.top]} for one in tokens
        ],
        "refusal": None,
    }


def _token(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(token)}
