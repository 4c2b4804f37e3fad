"""The response object: whole in every event that carries it, with all that the API promises."""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stepahead.server.api_error import ApiError
from stepahead.server.turn_service import TurnEnd

# What clients look for in a failed response; everything else is a fault of the server.
_CODES: Mapping[str, str] = {
    "invalid_request": "invalid_prompt",
    "overloaded": "server_is_overloaded",
    "rate_limited": "rate_limit_exceeded",
}


class ResponseObject:
    """What stays the same from the first event to the last."""

    def __init__(
        self,
        model: str,
        echo: Mapping[str, Any],
        seal: Callable[[str], str],
        identity: str | None = None,
        created_at: int | None = None,
    ) -> None:
        self.seal = seal
        self.identity = secrets.token_hex(16) if identity is None else identity
        self._fixed = {
            "id": f"resp_{self.identity}",
            "object": "response",
            "created_at": int(time.time()) if created_at is None else created_at,
            "model": model,
            **echo,
        }

    def as_object(
        self,
        status: str,
        output: Sequence[Mapping[str, Any]],
        usage: Mapping[str, Any] | None = None,
        error: ApiError | None = None,
    ) -> dict[str, Any]:
        return {
            **self._fixed,
            "status": status,
            "completed_at": int(time.time()) if status == "completed" else None,
            "error": None if error is None else {"code": _code(error), "message": error.message},
            # The API has one word for both limits, that of the request and that of the context.
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "output": list(output),
            "usage": usage,
        }


def usage(end: TurnEnd) -> dict[str, Any]:
    """input_tokens counts cached ones too, other than in Anthropic's API."""
    return {
        "input_tokens": end.prompt_tokens,
        "input_tokens_details": {"cached_tokens": end.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": end.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": end.reasoning_tokens},
        "total_tokens": end.prompt_tokens + end.completion_tokens,
    }


def _code(error: ApiError) -> str:
    if error.code == "context_length_exceeded":
        return error.code
    return _CODES.get(error.kind, "server_error")
