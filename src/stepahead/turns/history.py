"""Earlier turns of the assistant, as clients send them back, made ready for the chat template.

Owns the arguments of their calls and their reasoning, so that what is rendered again is what the model said. Must not
know any wire format: endpoints have made messages of template form before (turn_request.TurnRequest).
"""

import json
from collections.abc import Mapping
from typing import Any

from stepahead.turns.plain_json import loads

_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_RAW_ARGUMENT = "arguments"  # names what is no JSON object, so that a template can render it at all


def normalised_turn(message: Mapping[str, Any], wants_argument_text: bool = False) -> dict[str, Any]:
    """An assistant's message with its reasoning under one name and the arguments of its calls as objects, or as the
    JSON text of objects (TurnFormat.wants_argument_text).

    Reasoning stays as it is to the character, and is left out rather than empty. Content that is white space beside
    calls is empty: some clients write a blank where there was nothing. Messages of other roles are copied.
    """
    if message.get("role") != "assistant":
        return dict(message)
    turn = {key: value for key, value in message.items() if key not in (*_REASONING_KEYS, "tool_calls")}
    reasoning = next((message[key] for key in _REASONING_KEYS if message.get(key)), None)
    if reasoning is not None:
        turn["reasoning_content"] = reasoning
    calls = message.get("tool_calls")
    if calls:
        turn["tool_calls"] = [_normalised_call(call, wants_argument_text) for call in calls]
    content = message.get("content")
    if content is None or (calls and isinstance(content, str) and content.isspace()):
        turn["content"] = ""
    return turn


def arguments_object(arguments: Any) -> dict[str, Any]:
    """The arguments of a call as an object. Never raises: text that is no JSON object, such as that of a call that was
    cut off, becomes the only argument of one."""
    if isinstance(arguments, Mapping):
        return dict(arguments)
    if not isinstance(arguments, str):
        return {} if arguments is None else {_RAW_ARGUMENT: arguments}
    if not arguments.strip():
        return {}
    try:
        value = loads(arguments)
    except ValueError:
        return {_RAW_ARGUMENT: arguments}
    return value if isinstance(value, dict) else {_RAW_ARGUMENT: arguments}


def _normalised_call(call: Any, wants_argument_text: bool) -> Any:
    if not isinstance(call, Mapping) or not isinstance(call.get("function"), Mapping):
        return call  # the template's affair
    function = dict(call["function"])
    arguments = arguments_object(function.get("arguments"))
    function["arguments"] = json.dumps(arguments, ensure_ascii=False) if wants_argument_text else arguments
    return {**call, "function": function}
