"""The stream of a message: blocks numbered without a gap, each opened, filled and closed before the next.

The answer in one piece is made by the same steps, so the two cannot differ.
"""

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stepahead.server.api_error import ApiError
from stepahead.server.errors import anthropic_error
from stepahead.server.messages.request import Thinking
from stepahead.server.sse import frame
from stepahead.server.turn_frames import OneChoice
from stepahead.server.turn_service import FinishReason, TurnEnd, TurnStep
from stepahead.turns import event as turns
from stepahead.turns.turn_text import coalesced

_STOP_REASONS: Mapping[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "context_length": "model_context_window_exceeded",
    "stop_sequence": "stop_sequence",
    "tool_calls": "tool_use",
}


class MessageEvents(OneChoice):
    """Frames of one message, in the order of the calls: begin, push ..., end or fail; ping in between.

    seal packs reasoning for the client to send back: see reasoning_state.
    """

    def __init__(self, model: str, seal: Callable[[str], str], thinking: Thinking, identity: str | None = None) -> None:
        super().__init__()
        self._id = f"msg_{identity or secrets.token_hex(16)}"
        self._model = model
        self._seal = seal
        self._thinking = thinking
        self._content: list[dict[str, Any]] = []
        self._pieces: list[str] = []  # of the open block
        self._open: str | None = None  # its type

    def begin(self, num_prompt_tokens: int) -> bytes:
        """What of the prompt is cached is known later, and said in message_delta."""
        message = self._message([], None, None, _usage(num_prompt_tokens, 0, 1))
        return _frame("message_start", message=message) + self.ping()

    def ping(self) -> bytes:
        return _frame("ping")

    def push(self, step: TurnStep) -> bytes:
        return b"".join(one for event in coalesced(step.events) for one in self._told(event))

    def end(self, end: TurnEnd) -> tuple[bytes, dict[str, Any]]:
        """The last frames, and the whole message."""
        frames = b"".join(self._closed())
        reason = _STOP_REASONS[end.finish_reason]
        usage = _usage(end.prompt_tokens, end.cached_tokens, end.completion_tokens)
        usage["output_tokens_details"] = {"thinking_tokens": end.reasoning_tokens}
        delta = {"stop_reason": reason, "stop_sequence": end.stop_sequence}
        frames += _frame("message_delta", delta=delta, usage=usage) + _frame("message_stop")
        return frames, self._message(self._content, reason, end.stop_sequence, usage)

    def fail(self, error: ApiError) -> bytes:
        return frame(anthropic_error(error), "error")

    def _told(self, event: turns.Event) -> Iterator[bytes]:
        if isinstance(event, turns.ReasoningText):
            yield from self._reasoned(event.text)
        elif isinstance(event, turns.ContentText):
            if self._open != "text":
                yield from self._opened({"type": "text", "text": ""})
            yield self._grown("text_delta", "text", event.text)
        elif isinstance(event, turns.CallStarted):
            yield from self._opened({"type": "tool_use", "id": event.call_id, "name": event.name, "input": {}})
        elif isinstance(event, turns.CallArguments):
            assert self._open == "tool_use", "arguments without a call"
            yield self._grown("input_json_delta", "partial_json", event.json_text)
        else:
            yield from self._closed(is_call_complete=True)

    def _reasoned(self, text: str) -> Iterator[bytes]:
        if self._thinking == "hidden":
            return
        if self._open != "thinking":
            yield from self._opened({"type": "thinking", "thinking": "", "signature": ""})
        grown = self._grown("thinking_delta", "thinking", text)
        if self._thinking == "shown":
            yield grown

    def _opened(self, block: dict[str, Any]) -> Iterator[bytes]:
        yield from self._closed()
        self._open = block["type"]
        self._content.append(block)
        yield _frame("content_block_start", index=len(self._content) - 1, content_block=block)

    def _grown(self, kind: str, name: str, piece: str) -> bytes:
        self._pieces.append(piece)
        return self._delta({"type": kind, name: piece})

    def _closed(self, is_call_complete: bool = False) -> Iterator[bytes]:
        """A call that was cut off is never said to be done: clients would run it. In one piece it is shown as text."""
        kind, self._open = self._open, None
        text, self._pieces = "".join(self._pieces), []
        if kind is None:
            return
        block = self._content[-1]
        if kind == "tool_use" and not is_call_complete:
            self._content[-1] = {"type": "text", "text": f"[unfinished call of {block['name']}] {text}"}
            return
        if kind == "tool_use":
            block["input"] = json.loads(text or "{}")
        elif kind == "thinking":
            block["signature"] = self._seal(text)
            yield self._delta({"type": "signature_delta", "signature": block["signature"]})
            block["thinking"] = text if self._thinking == "shown" else ""
        else:
            block["text"] = text
        yield _frame("content_block_stop", index=len(self._content) - 1)

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        return _frame("content_block_delta", index=len(self._content) - 1, delta=delta)

    def _message(
        self, content: list[dict[str, Any]], reason: str | None, stop_sequence: str | None, usage: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop_sequence,
            "usage": usage,
        }


def _usage(prompt_tokens: int, cached_tokens: int, output_tokens: int) -> dict[str, Any]:
    """The three numbers of the input add up to the prompt."""
    return {
        "input_tokens": prompt_tokens - cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached_tokens,
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }


def _frame(kind: str, **fields: Any) -> bytes:
    return frame({"type": kind, **fields}, kind)
