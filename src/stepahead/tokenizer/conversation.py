"""Checks a conversation before a chat template sees it, and makes plain data of it.

Owns the form of messages. Must not know any template: what a role means, or whether it is allowed, is the
template's affair.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from stepahead.errors import RequestError

_MAX_NESTING = 64

# Names under which clients send reasoning; templates read the first.
_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")


def checked_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A copy of `messages` as plain data: roles are strings, content a string or None or left out.

    Of content given as a list, one text part becomes its text; several stay a list, see `joined_parts`. Reasoning is
    found under `reasoning_content` whatever name the client used. Raises RequestError naming the message that is
    wrong.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise RequestError("messages must be a non-empty list of messages, each with a role")
    return [_checked_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def has_parts(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any checked message has its content in several parts."""
    return any(isinstance(message.get("content"), list) for message in messages)


def joined_parts(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Checked messages with the parts of each content joined: for templates that know strings only."""
    joined = []
    for message in messages:
        content = message.get("content")
        parts = {"content": "".join(part["text"] for part in content)} if isinstance(content, list) else {}
        joined.append({**message, **parts})
    return joined


def checked_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """A copy of `tools` as plain data. Raises RequestError unless it is a list of objects or None."""
    if tools is None:
        return None
    if not isinstance(tools, list | tuple):
        raise RequestError(f"tools must be a list of objects or None, not {type(tools).__name__}")
    return [_object(tool, f"tools[{index}]") for index, tool in enumerate(tools)]


def plain_data(value: Any, where: str, depth: int = 0) -> Any:
    """A copy of `value` in types that JSON has, so that a template meets no methods but theirs.

    Raises RequestError for other types and for deep nesting; `where` names the value in the message.
    """
    if depth > _MAX_NESTING:
        raise RequestError(f"{where} is nested deeper than {_MAX_NESTING} levels; flatten it")
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise RequestError(f"{where} has a key that is not a string; keys must be strings")
        return {str.__str__(key): plain_data(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    raise RequestError(f"{where} is of type {type(value).__name__}; only JSON types are allowed")


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RequestError(f"{where} must be an object, not {type(value).__name__}")
    result: dict[str, Any] = plain_data(value, where)
    return result


def _checked_message(value: Any, where: str) -> dict[str, Any]:
    message = _object(value, where)
    if not isinstance(message.get("role"), str):
        raise RequestError(f"{where}.role must be a string such as 'user', not {message.get('role')!r}")
    if "content" in message:
        message["content"] = _checked_content(message["content"], f"{where}.content")
    reasoning = next((message[key] for key in _REASONING_KEYS if message.get(key) is not None), None)
    if reasoning is not None:
        message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
    return message


def _checked_content(content: Any, where: str) -> str | list[dict[str, Any]] | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RequestError(f"{where} must be a string, a list of text parts or null, not {type(content).__name__}")
    for index, part in enumerate(content):
        _check_part(part, f"{where}[{index}]")
    return content if len(content) > 1 else "".join(part["text"] for part in content)


def _check_part(part: Any, where: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    if kind != "text":
        raise RequestError(f"{where} is of type {kind!r}; only parts of type 'text' are supported")
    if not isinstance(part.get("text"), str):
        raise RequestError(f"{where}.text must be a string, not {type(part.get('text')).__name__}")
