"""What the OpenAPI document says of bodies and errors: made of the tables that requests are checked by."""

import re
from collections.abc import Mapping
from typing import Any

from stepahead.server.fields import FieldTable

_ERROR_TEXTS: Mapping[int, str] = {
    400: "The request is wrong; `param` names the field",
    401: "No key, or a wrong one",
    403: "The Host or Origin is not allowed",
    404: "There is no such path",
    405: "The path has other methods; `Allow` names them",
    408: "The body did not come in time",
    413: "The body is too large",
    415: "Content-Type or Content-Encoding is not taken",
    429: "The key's own limit is reached",
    500: "A fault of the server's",
    503: "Loading, draining, or too many requests wait; `Retry-After` says when to ask again",
}
_OBJECT: Mapping[str, Any] = {"type": "object"}
_TEXT: Mapping[str, Any] = {"type": "string"}
_FLAG: Mapping[str, Any] = {"type": "boolean"}
_COUNT: Mapping[str, Any] = {"type": "integer", "minimum": 1}
_FACTOR: Mapping[str, Any] = {"type": "number", "exclusiveMinimum": 0, "maximum": 2}
_PENALTY: Mapping[str, Any] = {"type": "number", "minimum": -2, "maximum": 2}
_TOKENS: Mapping[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_TYPES: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("model", "grammar", "guided_regex", "guided_grammar", "content"), _TEXT),
    **dict.fromkeys(("stream", "echo", "ignore_eos", "parallel_tool_calls", "return_progress", "with_pieces"), _FLAG),
    **dict.fromkeys(("temperature", "repetition_penalty"), _FACTOR),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), _PENALTY),
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens", "n"), _COUNT),
    **dict.fromkeys(("response_format", "speculation", "stepahead", "stream_options", "logit_bias"), _OBJECT),
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "min_p": {"type": "number", "minimum": 0, "maximum": 1},
    "top_k": {"type": "integer", "minimum": 0},
    "top_logprobs": {"type": "integer", "minimum": 0, "maximum": 20},
    "logprobs": {"type": ["boolean", "integer"]},
    "seed": {"type": "integer", "minimum": -(2**63), "maximum": 2**64 - 1},
    "messages": {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "required": ["role", "content"],
            "properties": {
                "role": {"enum": ["user", "assistant"]},
                "content": {"type": ["string", "array"], "items": _OBJECT},
            },
        },
    },
    "prompt": {"type": ["string", "array"], "minLength": 1, "minItems": 1, "items": {"type": ["integer", "string"]}},
    "tools": {"type": "array", "items": _OBJECT},
    "tokens": _TOKENS,
    "cache_salt": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": r"^[^@/\\\u0000]*$"},
}
_PARAMETER = re.compile(r"\{(\w+)")
_STREAMED = "text/event-stream"


def error_responses(error_schema: str = "Error") -> dict[int | str, dict[str, Any]]:
    """For `responses=` of routes."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{error_schema}"}}}
    return {status: {"description": text, "content": content} for status, text in _ERROR_TEXTS.items()}


def body_schema(table: FieldTable, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """For `openapi_extra=` of a route whose body is read by hand."""
    properties = {
        **{name: {**_TYPES.get(name, {}), "description": text} for name, text in table.honoured.items()},
        **{name: {"description": f"A hint without effect here. {text}".strip()} for name, text in table.hints.items()},
    }
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def complete_operation(path: str, operation: dict[str, Any]) -> None:
    """Adds what the framework cannot know: parameters of paths that no handler reads, answers as streams."""
    parameters = operation.setdefault("parameters", [])
    for name in _PARAMETER.findall(path):
        if all(parameter["name"] != name for parameter in parameters):
            parameters.append({"name": name, "in": "path", "required": True, "schema": {"type": "string"}})
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    if "stream" in schema.get("properties", {}):
        operation["responses"]["200"].setdefault("content", {})[_STREAMED] = {}


ERROR_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
