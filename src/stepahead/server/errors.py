"""An ApiError as the endpoints of each vendor say it: status, headers, body."""

import json
import math
from collections.abc import Mapping
from typing import Any

from fastapi import Response

from stepahead.server.api_error import ApiError, Kind

STATUS: Mapping[Kind, int] = {
    "invalid_request": 400,
    "authentication": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "timeout": 408,
    "too_large": 413,
    "unsupported_media_type": 415,
    "rate_limited": 429,
    "internal": 500,
    "overloaded": 503,
}
ANTHROPIC_OVERLOADED = 529

_OPENAI_TYPES: Mapping[Kind, str] = {
    "authentication": "authentication_error",
    "forbidden": "permission_error",
    "not_found": "not_found_error",
    "rate_limited": "rate_limit_error",
    "internal": "server_error",
    "overloaded": "server_error",
}
_OPENAI_CODES: Mapping[Kind, str] = {"authentication": "invalid_api_key", "overloaded": "overloaded"}
_ANTHROPIC_TYPES: Mapping[Kind, str] = {
    "authentication": "authentication_error",
    "forbidden": "permission_error",
    "not_found": "not_found_error",
    "timeout": "timeout_error",
    "too_large": "request_too_large",
    "rate_limited": "rate_limit_error",
    "internal": "api_error",
    "overloaded": "overloaded_error",
}
_ANTHROPIC_PATHS = "/v1/messages"

UNEXPECTED = "the server failed to answer this request; its log has the reason under this request's id"


def unexpected() -> ApiError:
    """For a fault of ours: nothing of it is told."""
    return ApiError("internal", UNEXPECTED)


def speaks_anthropic(path: str) -> bool:
    return path == _ANTHROPIC_PATHS or path.startswith(f"{_ANTHROPIC_PATHS}/")


def status_of(error: ApiError, path: str = "") -> int:
    if error.kind == "overloaded" and speaks_anthropic(path):
        return ANTHROPIC_OVERLOADED
    return STATUS[error.kind]


def openai_error(error: ApiError) -> dict[str, Any]:
    return {
        "error": {
            "message": error.message,
            "type": _OPENAI_TYPES.get(error.kind, "invalid_request_error"),
            "param": error.param,
            "code": error.code or _OPENAI_CODES.get(error.kind),
        }
    }


def anthropic_error(error: ApiError, request_id: str | None = None) -> dict[str, Any]:
    kind = _ANTHROPIC_TYPES.get(error.kind, "invalid_request_error")
    names_field = error.param is None or error.message.startswith(error.param)
    message = error.message if names_field else f"{error.param}: {error.message}"
    body: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": message}}
    return body if request_id is None else {**body, "request_id": request_id}


def error_body(error: ApiError, path: str, request_id: str | None = None) -> bytes:
    body = anthropic_error(error, request_id) if speaks_anthropic(path) else openai_error(error)
    return json.dumps(body).encode()


def error_headers(error: ApiError) -> dict[str, str]:
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if error.kind == "authentication":
        headers["www-authenticate"] = "Bearer"
        headers["x-should-retry"] = "false"  # Claude Code would ask for minutes
    if error.kind in ("timeout", "too_large"):
        headers["connection"] = "close"  # the rest of the body is not waited for
    return headers


def error_response(error: ApiError, path: str, request_id: str | None = None) -> Response:
    return Response(
        error_body(error, path, request_id),
        status_of(error, path),
        error_headers(error),
        media_type="application/json",
    )
