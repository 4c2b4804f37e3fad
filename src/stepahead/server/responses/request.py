"""A responses request: the body as one turn's request, and what its answer repeats of it.

The API gets fields with each release of its clients, so unknown ones pass, named in a header of the answer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stepahead.engine.params import SamplingParams
from stepahead.server.agent_fields import (
    MAX_ITEMS,
    MORE_SAMPLING,
    effort_args,
    inner,
    objects,
    unsupported,
)
from stepahead.server.cache_salt import read_salt
from stepahead.server.endpoint import EndpointSettings
from stepahead.server.fields import Fields, FieldTable, Refused
from stepahead.server.responses.input_items import InputItems
from stepahead.server.responses.tool_names import ToolNames
from stepahead.server.responses.tools import read_choice, read_tools
from stepahead.server.sampling_fields import read_logprobs, read_params, read_speculation
from stepahead.turns.output_format import JsonObject, JsonSchema, OutputFormat
from stepahead.turns.turn_request import TurnRequest

_STATELESS = "this server keeps no responses; send the items in input"
FIELDS = FieldTable(
    honoured={
        "include": "message.output_text.logprobs; sealed reasoning always comes along",
        "input": "text or items; images and files in results of tools are replaced by a note, elsewhere refused",
        "instructions": "the system message",
        "max_output_tokens": "reasoning included",
        "model": "any name; the answer has ours",
        "parallel_tool_calls": "false: one call at most",
        "reasoning": "effort, brought to low, medium or high; a hint where the model's template has none. No summaries",
        "stream": "true for server-sent events",
        "text": "format text, json_object or json_schema; verbosity has no effect",
        "tool_choice": "auto, none, required, a function, a custom tool, allowed_tools",
        "tools": "function, namespace and custom; others are left out, and named in the header x-stepahead-ignored",
        "top_logprobs": "0 to 20",
        **MORE_SAMPLING,
    },
    hints=dict.fromkeys(
        (
            "access_programs", "background_options", "client_metadata", "context_management", "image",
            "max_tool_calls", "metadata", "personality", "prompt_cache_key", "prompt_cache_options",
            "prompt_cache_retention", "safety_identifier", "service_tier", "store", "stream_options", "user",
        ),
        "no effect here",
    ),
    refused={
        "background": Refused("answers are not kept to be fetched later; read them as a stream", (False,)),
        "conversation": Refused(_STATELESS),
        "moderation": Refused("nothing is moderated here; leave it out"),
        "previous_response_id": Refused(_STATELESS),
        "prompt": Refused("prompts are not kept here; send instructions and input"),
        "truncation": Refused("nothing is cut out of a prompt; leave it out and shorten the input", ("disabled",)),
    },
)  # fmt: skip
_LOGPROBS = "message.output_text.logprobs"


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """echo: the fields of a response object that repeat the request, with defaults where it said nothing."""

    turn: TurnRequest
    names: ToolNames
    is_streamed: bool
    echo: Mapping[str, Any]
    ignored: tuple[str, ...]


def read_request(
    body: Mapping[str, Any], unseal: Callable[[object], str | None], settings: EndpointSettings
) -> ResponsesRequest:
    """Raises ApiError for what is wrong, and for what cannot be done and would change the result."""
    ignored = FIELDS.check(body, "warn")
    if body.get("store"):
        ignored.append("store")
    request = Fields(body)
    items = _items(request)
    names = ToolNames()
    read_tools(objects(request, "tools"), names, ignored)
    for item in items:
        if item.values.get("type") == "additional_tools":
            read_tools(objects(item, "tools"), names, ignored)
    choice, offered = read_choice(request, names)
    is_streamed = request.boolean("stream")
    turn = TurnRequest(
        messages=_messages(request, items, InputItems(names, unseal, ignored)),
        tools=offered,
        tool_choice=choice,
        output_format=_format(inner(inner(request, "text"), "format")),
        params=_params(request, settings),
        speculation=read_speculation(request),
        template_args=effort_args(inner(request, "reasoning")),
        cache_salt=read_salt(request),
        buffers_calls=not is_streamed,
    )
    return ResponsesRequest(turn, names, is_streamed, _echo(request, turn), tuple(ignored))


def _items(request: Fields) -> list[Fields]:
    text = request.values.get("input")
    if isinstance(text, str):
        return [Fields({"role": "user", "content": text}, "input")]
    return list(objects(request, "input"))


def _messages(request: Fields, items: list[Fields], reader: InputItems) -> tuple[dict[str, Any], ...]:
    instructions = request.string("instructions")
    if instructions:
        reader.conversation.system(instructions)
    for item in items:
        reader.read(item)
    if not items:
        reader.conversation.user("")  # Codex asks with no input whether anybody answers
    return reader.conversation.messages()


def _format(settings: Fields) -> OutputFormat | None:
    kind = settings.string("type") or "text"
    if kind == "text":
        return None
    if kind == "json_object":
        return JsonObject()
    if kind == "json_schema":
        return JsonSchema(inner(settings, "schema").values, is_lenient=settings.values.get("strict") is False)
    raise unsupported(settings.path("type"), "give text, json_object or json_schema")


def _params(request: Fields, settings: EndpointSettings) -> SamplingParams:
    logprobs = read_logprobs(request, "top_logprobs")
    if logprobs is None and _LOGPROBS in (request.list("include", MAX_ITEMS) or ()):
        logprobs = 0
    return read_params(request, request.integer("max_output_tokens", 1), settings.default_temperature, logprobs)


def _echo(request: Fields, turn: TurnRequest) -> dict[str, Any]:
    body = request.values
    repeated = (
        "instructions", "max_output_tokens", "max_tool_calls", "prompt_cache_key", "prompt_cache_retention",
        "safety_identifier", "user",
    )  # fmt: skip
    return {
        **{name: body.get(name) for name in repeated},
        "background": False,
        "metadata": body.get("metadata") or {},
        "parallel_tool_calls": turn.tool_choice.is_parallel,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None, **inner(request, "reasoning").values},
        "service_tier": "default",
        "store": False,
        "temperature": turn.params.temperature,
        "text": {"format": {"type": "text"}, **inner(request, "text").values},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [_echoed(tool.values) for tool in objects(request, "tools")],
        "top_logprobs": turn.params.logprobs or 0,
        "top_p": turn.params.top_p,
        "truncation": "disabled",
    }


def _echoed(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"parameters": None, "strict": False, **tool} if tool.get("type") == "function" else tool
