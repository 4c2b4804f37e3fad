"""The body of a chat completion to a turn request: all of its fields, in their three classes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from stepahead.server.cache_salt import read_salt
from stepahead.server.endpoint import EndpointSettings
from stepahead.server.fields import Fields, FieldTable, Refused
from stepahead.server.sampling_fields import (
    FORMATS,
    SAMPLING,
    read_format,
    read_logprobs,
    read_params,
    read_speculation,
)
from stepahead.server.step_extension import wants_steps
from stepahead.server.wire import PROGRESS
from stepahead.turns.tool import Tool, ToolChoice
from stepahead.turns.turn_request import TurnRequest

MAX_MESSAGES, MAX_PARTS, MAX_TOOLS, MAX_CALLS, MAX_CHOICES = 10_000, 10_000, 1024, 1024, 128
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_TEXT_PARTS = ("text", "input_text", "output_text")
_OLD_CALLS = "calls are made by tools here: use tools and tool_choice"
_NO_SEARCH = "this server does not search the web"

CHAT_FIELDS = FieldTable(
    honoured={
        "model": "any name; the answer says which model it was",
        "messages": "roles system, developer (as system), user, assistant, tool; content as text or parts of text",
        "tools": "functions; `strict` enforces their parameters' schema",
        "tool_choice": "none, auto, required, a function, or allowed_tools",
        "parallel_tool_calls": "false: one call at most",
        "max_completion_tokens": "wins over max_tokens; what the context cannot hold is cut",
        "max_tokens": "see max_completion_tokens",
        "stream": "server-sent events",
        "stream_options": "include_usage, continuous_usage_stats; include_obfuscation has no effect",
        "logprobs": "of the tokens of content, as the model gave them, before sampling settings",
        "top_logprobs": "0 to 20",
        "response_format": "text, json_object or json_schema",
        "reasoning_effort": "for templates that read it; a hint elsewhere",
        "reasoning": "its effort, as reasoning_effort; the rest has no effect",
        "chat_template_kwargs": "variables of the model's template; names that it does not read are told in a header",
        "return_progress": PROGRESS,
        "stepahead": "object: steps (true: see the extension below)",
        **SAMPLING,
        **FORMATS,
    },
    hints={
        "user": "",
        "metadata": "",
        "safety_identifier": "",
        "service_tier": "",
        "prompt_cache_key": "prefixes are found by their tokens",
        "prompt_cache_retention": "",
        "prompt_cache_options": "",
        "prediction": "what repeats text of the prompt is drafted from it in any case",
        "verbosity": "",
        "cache_prompt": "prefixes are always kept",
        "store": "nothing is stored",
        "cache_control": "",
    },
    refused={
        "functions": Refused(_OLD_CALLS, ([],)),
        "function_call": Refused(_OLD_CALLS, ("none", "auto")),
        "modalities": Refused("this server answers in text", (["text"],)),
        "audio": Refused("this server answers in text"),
        "web_search_options": Refused(_NO_SEARCH),
        "chat_template": Refused("the template is the model's: requests cannot bring their own"),
        "add_generation_prompt": Refused("an answer is always begun", (True,)),
        "continue_final_message": Refused("an answer is begun anew: use /v1/completions to continue a text", (False,)),
        "include_reasoning": Refused("reasoning is always told, apart from the answer", (True,)),
        "echo": Refused("not for conversations: use /v1/completions", (False,)),
        "best_of": Refused("give n and choose among the answers", (1,)),
        "use_beam_search": Refused("answers are sampled", (False,)),
        "prompt_logprobs": Refused("log-probabilities of prompts are not computed", (0,)),
    },
)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a chat completion asks for, checked."""

    turn: TurnRequest
    is_stream: bool
    has_usage: bool  # in the stream
    has_usage_always: bool
    has_progress: bool
    warnings: tuple[str, ...]

    @property
    def has_steps(self) -> bool:
        return self.turn.tells_steps


def read_chat(body: Mapping[str, Any], settings: EndpointSettings) -> ChatRequest:
    """Raises ApiError for whatever is wrong with it."""
    warnings = CHAT_FIELDS.check(body, settings.unknown_fields)
    fields = Fields(body)
    fields.string("model")
    is_stream = fields.boolean("stream")
    options = _stream_options(fields, is_stream)
    logprobs = read_logprobs(fields, "top_logprobs")
    if logprobs and not fields.boolean("logprobs"):
        raise fields.wrong("top_logprobs", "needs logprobs: true")
    max_tokens = fields.integer("max_completion_tokens", 1) or fields.integer("max_tokens", 1)
    tools, choice = read_tools(fields)
    turn = TurnRequest(
        messages=read_messages(fields),
        tools=tools,
        tool_choice=choice,
        output_format=read_format(fields),
        params=read_params(
            fields, max_tokens, settings.default_temperature, (logprobs or 0) if fields.boolean("logprobs") else None
        ),
        speculation=read_speculation(fields),
        template_args=_template_args(fields),
        num_choices=fields.integer("n", 1, MAX_CHOICES) or 1,
        tells_steps=wants_steps(body.get("stepahead")),
        cache_salt=read_salt(fields),
        buffers_calls=not is_stream,
    )
    return ChatRequest(
        turn,
        is_stream,
        options.boolean("include_usage"),
        options.boolean("continuous_usage_stats"),
        fields.boolean("return_progress"),
        tuple(warnings),
    )


def _stream_options(fields: Fields, is_stream: bool) -> Fields:
    options = fields.object("stream_options")
    if options is not None and not is_stream and any(one is not None for one in options.values.values()):
        raise fields.wrong("stream_options", "needs stream: true")
    return options or Fields({})


def _template_args(fields: Fields) -> dict[str, Any]:
    asked = fields.object("chat_template_kwargs")
    arguments = dict(asked.values) if asked is not None else {}
    for name in ("chat_template", "tokenize", "add_generation_prompt", "messages", "tools", "documents"):
        if name in arguments:
            raise fields.wrong(f"chat_template_kwargs.{name}", "cannot be set by a request", "unsupported_value")
    effort = fields.choice("reasoning_effort", _EFFORTS)
    reasoning = fields.object("reasoning")
    if effort is None and reasoning is not None:
        effort = reasoning.choice("effort", _EFFORTS)
    return arguments if effort is None else {"reasoning_effort": effort, **arguments}


# --- messages ---
def read_messages(fields: Fields) -> tuple[dict[str, Any], ...]:
    """In the form that chat templates expect. Raises ApiError."""
    if not fields.list("messages", MAX_MESSAGES):
        raise fields.wrong("messages", "must be a list of at least one message")
    return tuple(_message(message) for message in fields.objects("messages", MAX_MESSAGES))


def _message(message: Fields) -> dict[str, Any]:
    role = message.choice("role", ("system", "developer", "user", "assistant", "tool"))
    if role is None:
        raise message.wrong("role", "must be system, developer, user, assistant or tool")
    if role == "assistant":
        return _assistant(message)
    if not message.has("content"):
        raise message.wrong("content", "must be a string or a list of parts")
    read: dict[str, Any] = {"role": "system" if role == "developer" else role, "content": _content(message)}
    if role == "tool":
        read["tool_call_id"] = message.string("tool_call_id", 256) or ""
        if name := message.string("name", 256):
            read["name"] = name
    return read


def _assistant(message: Fields) -> dict[str, Any]:
    read: dict[str, Any] = {"role": "assistant", "content": _content(message) if message.has("content") else ""}
    if message.has("function_call"):
        raise message.wrong("function_call", f"is not read: {_OLD_CALLS}")
    for name in ("reasoning_content", "reasoning"):
        if isinstance(message.values.get(name), str) and message.values[name]:
            read["reasoning_content"] = message.values[name]
            break
    calls = [_call(call) for call in message.objects("tool_calls", MAX_CALLS)]
    if calls:
        read["tool_calls"] = calls
    return read


def _call(call: Fields) -> dict[str, Any]:
    function = call.object("function")
    if function is None or not function.string("name"):
        raise call.wrong("function", "must be an object with a name and arguments")
    arguments = function.values.get("arguments")
    if not isinstance(arguments, str | dict | None):
        raise function.wrong("arguments", "must be a string of JSON")
    named = {"name": function.string("name", 256), "arguments": {} if arguments is None else arguments}
    return {"id": call.string("id", 256) or "", "type": "function", "function": named}


def _content(message: Fields) -> str:
    content = message.values.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise message.wrong("content", "must be a string or a list of parts")
    return "".join(_part(part) for part in message.objects("content", MAX_PARTS))


def _part(part: Fields) -> str:
    kind = part.string("type", 64)
    if kind == "refusal":
        return part.string("refusal") or ""
    if kind not in _TEXT_PARTS:
        name = kind if kind in part.values else "type"
        raise part.wrong(name or "type", "is no text, and this model reads text alone", "unsupported_value")
    text = part.string("text")
    if text is None:
        raise part.wrong("text", "must be a string")
    return text


# --- tools ---
def read_tools(fields: Fields) -> tuple[tuple[Tool, ...], ToolChoice]:
    """The tools that may be called, and the choice among them. Raises ApiError."""
    tools = _all_tools(fields)
    choice = read_tool_choice(fields, tools)
    if choice.mode == "auto" and choice.names:  # the others might as well not be there
        tools = tuple(tool for tool in tools if tool.name in choice.names)
    return tools, choice


def _all_tools(fields: Fields) -> tuple[Tool, ...]:
    tools: dict[str, Tool] = {}
    for item in fields.objects("tools", MAX_TOOLS):
        if item.string("type", 64) != "function":
            raise item.wrong("type", 'must be "function"', "unsupported_value")
        function = item.object("function")
        if function is None:
            raise item.wrong("function", "must be an object")
        name = function.string("name")
        if name is None or not _TOOL_NAME.fullmatch(name):
            raise function.wrong("name", "must be 1 to 128 letters, digits, or any of _ - . : /")
        if name in tools:
            raise function.wrong("name", "is the name of two tools")
        parameters = function.object("parameters")
        tool = Tool(name, function.string("description") or "", is_strict=function.boolean("strict"))
        tools[name] = tool if parameters is None else replace(tool, parameters=parameters.values)
    return tuple(tools.values())


def read_tool_choice(fields: Fields, tools: tuple[Tool, ...]) -> ToolChoice:
    """Raises ApiError."""
    is_parallel = fields.boolean("parallel_tool_calls", True)
    value = fields.values.get("tool_choice")
    if value is None:
        return ToolChoice("auto", (), is_parallel)
    if isinstance(value, str):
        mode = fields.choice("tool_choice", ("none", "auto", "required"))
        if mode == "required" and not tools:
            raise fields.wrong("tool_choice", "is required, and there are no tools")
        return ToolChoice(mode, (), is_parallel)  # type: ignore[arg-type]
    asked = fields.object("tool_choice")
    assert asked is not None
    kind = asked.choice("type", ("function", "allowed_tools"))
    if kind == "function":
        return ToolChoice("named", (_named(asked, tools),), is_parallel)
    if kind != "allowed_tools":
        raise asked.wrong("type", "must be function or allowed_tools")
    allowed = asked.object("allowed_tools") or asked
    names = tuple(_named(item, tools) for item in allowed.objects("tools", MAX_TOOLS))
    if not names:
        raise allowed.wrong("tools", "must name at least one tool")
    mode = allowed.choice("mode", ("auto", "required")) or "auto"
    return ToolChoice("named" if mode == "required" else "auto", names, is_parallel)


def _named(item: Fields, tools: tuple[Tool, ...]) -> str:
    function = item.object("function") or item
    name = function.string("name")
    if name is None or all(tool.name != name for tool in tools):
        raise function.wrong("name", "is none of the tools of this request")
    return name
