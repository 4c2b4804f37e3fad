"""What the OpenAPI document says of bodies and errors: made of the tables that requests are checked by."""

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
_TYPES: Mapping[str, Mapping[str, Any]] = {
    "messages": {"type": "array", "items": {"type": "object"}},
    "stream": {"type": ["boolean", "null"]},
}


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
