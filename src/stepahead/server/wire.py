"""What chat and text completions write alike: usage, finish reasons, the ends of streams."""

import json
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Iterable, Mapping
from typing import Any

from fastapi import Request, Response

from stepahead import __version__
from stepahead.server.api_error import ApiError
from stepahead.server.endpoint import EndpointSettings
from stepahead.server.errors import openai_error
from stepahead.server.sse import EventStream, frame, while_connected
from stepahead.server.statistics import llama_timings, request_metrics
from stepahead.server.turn_service import FinishReason, Progress, TurnEnd

FINGERPRINT = f"stepahead-{__version__}"
IGNORED_HEADER = "x-stepahead-ignored"
PROGRESS = "chunks with prompt_progress while the prompt waits or is computed (llama.cpp's name)"

_FINISH: Mapping[FinishReason, str] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "context_length": "length",
    "tool_calls": "tool_calls",
    "error": "stop",
}


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def finish_reason(end: TurnEnd) -> str:
    return _FINISH[end.finish_reason]


def usage(prompt_tokens: int, cached_tokens: int, completion_tokens: int, reasoning_tokens: int) -> dict[str, Any]:
    """Drafts are no predicted outputs in the sense of the API: those fields stay 0."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": reasoning_tokens,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def total_usage(ends: Iterable[TurnEnd], num_choices: int) -> dict[str, Any]:
    """Of all choices; a prompt that several of them continue counts once."""
    prompt = cached = completion = reasoning = 0
    for end in ends:
        if end.choice % num_choices == 0:
            prompt, cached = prompt + end.prompt_tokens, cached + end.cached_tokens
        completion += end.completion_tokens
        reasoning += end.reasoning_tokens
    return usage(prompt, cached, completion, reasoning)


def statistics(ends: list[TurnEnd]) -> dict[str, Any]:
    """Of one choice; several have none in common."""
    if len(ends) != 1:
        return {"metrics": None}
    return {"metrics": request_metrics(ends[0]), "timings": llama_timings(ends[0])}


def prompt_progress(progress: Progress) -> dict[str, Any]:
    """In llama.cpp's names; queued is ours: the request waits for a place, and nothing of it is computed yet."""
    return {
        "total": progress.num_prompt_tokens,
        "cache": progress.num_cached_tokens,
        "processed": progress.num_computed_tokens,
        "queued": progress.is_queued,
    }


def event_stream(
    frames: AsyncGenerator[bytes, None], settings: EndpointSettings, headers: Mapping[str, str]
) -> EventStream:
    return EventStream(
        frames,
        keepalive_seconds=settings.keepalive_seconds,
        headers=headers,
        stall_seconds=settings.stall_seconds,
    )


async def one_piece(request: Request, work: Awaitable[dict[str, Any]], headers: Mapping[str, str]) -> Response:
    """What work makes, unless the client leaves before. Raises what it raises."""
    content = compact(await while_connected(request, work)).encode()
    return Response(content, headers=dict(headers), media_type="application/json")


def error_frame(error: ApiError) -> bytes:
    return frame(openai_error(error))


class Envelope:
    """What all chunks of a stream have in common, as bytes that are made once."""

    def __init__(self, prefix: str, kind: str, model: str) -> None:
        self.id = f"{prefix}-{secrets.token_hex(12)}"
        self.created = int(time.time())
        self.model = model
        self.kind = kind
        head = compact({**self.as_object(), "object": self.kind})
        self._head = f"data: {head[:-1]}"

    def as_object(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
        }

    def frame(self, choices: str, extra: str = "") -> bytes:
        """choices: JSON of the list. extra: further members as JSON, each with a comma in front."""
        return f'{self._head},"choices":{choices}{extra}}}\n\n'.encode()


def members(values: Mapping[str, Any]) -> str:
    """As `Envelope.frame` wants them."""
    return "".join(f",{compact(name)}:{compact(value)}" for name, value in values.items())


def ignored(names: Iterable[str]) -> dict[str, str]:
    """The header that names what was left out."""
    joined = ", ".join(name.strip() or '""' for name in names)
    return {IGNORED_HEADER: joined[:2000].strip()} if joined else {}  # white space at an end is no header
