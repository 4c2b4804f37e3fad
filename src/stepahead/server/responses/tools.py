"""The tools and the tool_choice of a responses request. Codex sends tools that are no functions: none is refused."""

from collections.abc import Iterable
from typing import Any

from stepahead.server.agent_fields import NO_PARAMETERS, inner, objects, required, tool_name, unsupported
from stepahead.server.fields import Fields, wrong
from stepahead.server.responses.tool_names import CUSTOM_INPUT, ToolNames, WireName
from stepahead.turns.output_format import GrammarText
from stepahead.turns.tool import Tool, ToolChoice

_CALLABLE = ("function", "custom")


def read_tools(tools: Iterable[Fields], names: ToolNames, ignored: list[str]) -> None:
    """Add what the model can call to `names`; what it cannot is named in `ignored`."""
    for tool in tools:
        if tool.values.get("type") == "namespace":
            _read_namespace(tool, names, ignored)
        else:
            _read_tool(tool, None, "", names, ignored)


def read_choice(request: Fields, names: ToolNames) -> tuple[ToolChoice, tuple[Tool, ...]]:
    """How tools are to be used, and which are offered: fewer with allowed_tools."""
    is_parallel = request.boolean("parallel_tool_calls", True)
    offered = tuple(names.tools)
    choice = request.values.get("tool_choice")
    if choice is None or choice in ("auto", "none"):
        return ToolChoice("none" if choice == "none" else "auto", (), is_parallel), offered
    if choice == "required":
        _check_offered(bool(offered), "tool_choice")
        return ToolChoice("required", (), is_parallel), offered
    if not isinstance(choice, dict):
        raise wrong("tool_choice", "must be auto, none, required or an object")
    chosen = Fields(choice, "tool_choice")
    if choice.get("type") != "allowed_tools":
        return ToolChoice("named", (_offered_name(chosen, names),), is_parallel), offered
    allowed = tuple(_offered_name(tool, names) for tool in objects(chosen, "tools") if _is_callable(tool))
    if choice.get("mode") == "required":
        _check_offered(bool(allowed), "tool_choice.tools")
        return ToolChoice("named", allowed, is_parallel), offered
    return ToolChoice("auto", (), is_parallel), tuple(tool for tool in offered if tool.name in allowed)


def _read_namespace(space: Fields, names: ToolNames, ignored: list[str]) -> None:
    name = tool_name(space)
    about = space.string("description") or ""
    for tool in objects(space, "tools"):
        _read_tool(tool, name, about, names, ignored)
        about = ""  # said once, with the first tool


def _read_tool(tool: Fields, namespace: str | None, about: str, names: ToolNames, ignored: list[str]) -> None:
    kind = tool.string("type") or ""
    description = "\n\n".join(part for part in (about, tool.string("description")) if part)
    if kind in _CALLABLE and names.offers(tool_name(tool), namespace):
        ignored.append(tool.path("name"))  # the first of two is the one
    elif kind == "function":
        parameters = dict(inner(tool, "parameters").values) or NO_PARAMETERS
        offered = Tool("", description, parameters, tool.boolean("strict"), place=tool.place)
        names.add(WireName(tool_name(tool), namespace), offered)
    elif kind == "custom":
        grammar = _grammar(inner(tool, "format"))
        offered = Tool("", description, _custom_parameters(grammar), grammar is not None, grammar, tool.place)
        names.add(WireName(tool_name(tool), namespace, "custom"), offered)
    else:
        ignored.append(tool.path(kind))


def _grammar(wanted: Fields) -> GrammarText | None:
    if wanted.choice("type", ("text", "grammar")) != "grammar":
        return None
    syntax = wanted.choice("syntax", ("lark", "regex"))
    if syntax is None:
        raise wanted.wrong("syntax", "is required")
    return GrammarText(syntax, required(wanted, "definition"))  # type: ignore[arg-type]


def _custom_parameters(grammar: GrammarText | None) -> dict[str, Any]:
    about = "The whole input of the tool, as plain text."
    if grammar is not None:
        about += f" It follows this {grammar.syntax} grammar:\n{grammar.text}"
    properties = {CUSTOM_INPUT: {"type": "string", "description": about}}
    return {"type": "object", "properties": properties, "required": [CUSTOM_INPUT]}


def _is_callable(tool: Fields) -> bool:
    return tool.values.get("type") in _CALLABLE


def _offered_name(chosen: Fields, names: ToolNames) -> str:
    if not _is_callable(chosen):
        raise unsupported(chosen.path("type"), "tools of this type do not exist here; choose a function")
    name, namespace = required(chosen, "name"), chosen.string("namespace")
    _check_offered(names.offers(name, namespace), chosen.path("name"))
    return names.for_model(name, namespace)


def _check_offered(is_offered: bool, path: str) -> None:
    if not is_offered:
        raise wrong(path, "asks for a tool that the request does not offer")
