"""A messages request: the body as one turn's request.

Fields, block types and betas are open lists in this API, so unknown ones pass, named in a header of the answer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from stepahead.server.agent_fields import (
    MORE_SAMPLING,
    effort_args,
    inner,
    required,
    unsupported,
)
from stepahead.server.cache_salt import read_salt
from stepahead.server.endpoint import EndpointSettings
from stepahead.server.fields import Fields, FieldTable
from stepahead.server.messages.blocks import Blocks
from stepahead.server.messages.tools import OfferedTools
from stepahead.server.sampling_fields import MAX_STOP_CHARS, MAX_STOPS, read_params, read_speculation
from stepahead.turns.output_format import JsonSchema, OutputFormat
from stepahead.turns.tool import Tool, ToolChoice
from stepahead.turns.turn_request import TurnRequest

FIELDS = FieldTable(
    honoured={
        "max_tokens": "required; thinking included",
        "messages": "text, thinking, tool_use and tool_result; images and files in results of tools are replaced by a "
        "note, elsewhere refused; documents of text are read. No prefill: the last message is not the assistant's",
        "model": "any name; the answer has ours",
        "output_config": "effort, brought to low, medium or high, a hint where the model's template has none; format",
        "output_format": "as output_config.format",
        "stop_sequences": "in text, neither in thinking nor in calls",
        "stream": "true for server-sent events",
        "system": "text; a block that is only Claude Code's billing line is left out",
        "thinking": "a model that always thinks does so; absent or disabled: its thinking is not shown. "
        "display omitted: signatures alone; budget_tokens has no effect",
        "tool_choice": "auto, any, tool, none; disable_parallel_tool_use",
        "tools": "with an input_schema; defer_loading: not shown until the conversation refers to it; Anthropic's own "
        "are left out, and named in the header x-stepahead-ignored",
        **MORE_SAMPLING,
    },
    hints=dict.fromkeys(
        (
            "cache_control", "container", "context_management", "diagnostics", "inference_geo", "metadata",
            "service_tier", "speed", "user_profile_id", "workspace_id",
        ),
        "no effect here",
    ),
)  # fmt: skip
Thinking = Literal["shown", "signed", "hidden"]  # signed: blocks without their text


@dataclass(frozen=True, slots=True)
class MessagesRequest:
    turn: TurnRequest
    is_streamed: bool
    thinking: Thinking
    ignored: tuple[str, ...]


def read_request(
    body: Mapping[str, Any],
    unseal: Callable[[object], str | None],
    settings: EndpointSettings,
    is_only_counted: bool = False,
) -> MessagesRequest:
    """Raises ApiError for what is wrong, and for what cannot be done and would change the result."""
    ignored = FIELDS.check(body, "warn")
    request = Fields(body)
    max_tokens = request.integer("max_tokens", 1)
    if max_tokens is None and not is_only_counted:
        raise request.wrong("max_tokens", "is required")
    tools = OfferedTools(request, ignored)
    blocks = Blocks(unseal, tools, ignored)
    blocks.read_system(request, settings.strips_billing_header)
    blocks.read_messages(request)
    params = read_params(request, max_tokens, settings.default_temperature, None)
    is_streamed = request.boolean("stream")
    turn = TurnRequest(
        messages=blocks.conversation.messages(),
        tools=tools.first,
        late_tools=tools.late,
        tool_choice=_choice(request, (*tools.first, *tools.late)),
        output_format=_format(request),
        params=replace(params, stop=request.strings("stop_sequences", MAX_STOPS, MAX_STOP_CHARS)),
        speculation=read_speculation(request),
        template_args=effort_args(inner(request, "output_config")),
        cache_salt=read_salt(request),
        buffers_calls=not is_streamed,
    )
    return MessagesRequest(turn, is_streamed, _thinking(request), tuple(ignored))


def _choice(request: Fields, tools: tuple[Tool, ...]) -> ToolChoice:
    choice = inner(request, "tool_choice")
    is_parallel = not choice.boolean("disable_parallel_tool_use")
    kind = choice.choice("type", ("auto", "any", "tool", "none")) or "auto"
    if kind in ("auto", "none"):
        return ToolChoice("none" if kind == "none" else "auto", (), is_parallel)
    names = (required(choice, "name"),) if kind == "tool" else ()
    if not tools or any(name not in {tool.name for tool in tools} for name in names):
        raise request.wrong("tool_choice", "asks for a tool that the request does not offer")
    return ToolChoice("named" if names else "required", names, is_parallel)


def _format(request: Fields) -> OutputFormat | None:
    settings = request.object("output_format") or inner(request, "output_config").object("format")
    if settings is None:
        return None
    if settings.values.get("type") != "json_schema":
        raise unsupported(settings.path("type"), "give json_schema")
    return JsonSchema(inner(settings, "schema").values)


def _thinking(request: Fields) -> Thinking:
    settings = inner(request, "thinking")
    if (settings.string("type") or "disabled") == "disabled":
        return "hidden"
    return "signed" if settings.values.get("display") == "omitted" else "shown"
