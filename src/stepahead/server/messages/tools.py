"""The tools of a messages request: those that stand at the head of the prompt, and those that are told of later.

A tool whose loading is deferred is offered from where the conversation speaks of it, and its description stands there:
at the head it would make the whole conversation another one, for the model's cache too.
"""

import json
from collections.abc import Mapping

from stepahead.server.agent_fields import NO_PARAMETERS, inner, objects, tool_name
from stepahead.server.fields import Fields
from stepahead.turns.tool import Tool

_SERVER_SEARCH = "tool_search_tool"  # how Anthropic's own searches are called; nobody would find deferred tools here


class OfferedTools:
    """Reads the tools of a request; `told` and `changed` are for the conversation, in its order."""

    def __init__(self, request: Fields, ignored: list[str]) -> None:
        """Raises ApiError for a wrong tool, or two of one name."""
        self._deferred: dict[str, Tool] = {}
        self._first: dict[str, Tool] = {}
        self._late: dict[str, Tool] = {}
        tools = list(objects(request, "tools"))
        defers = not any((tool.string("type") or "").startswith(_SERVER_SEARCH) for tool in tools)
        for one in tools:
            kind = one.string("type") or "custom"
            if kind != "custom":
                ignored.append(one.path(kind))
                continue
            tool = _read(one)
            if tool.name in self._first or tool.name in self._deferred:
                raise one.wrong("name", "is the name of two tools")
            of_its_kind = self._deferred if defers and one.boolean("defer_loading") else self._first
            of_its_kind[tool.name] = tool

    @property
    def first(self) -> tuple[Tool, ...]:
        """Of the head."""
        return tuple(self._first.values())

    @property
    def late(self) -> tuple[Tool, ...]:
        """Told of so far."""
        return tuple(self._late.values())

    def told(self, name: str) -> str:
        """What stands where the conversation names a tool: its description, for the first time."""
        tool = self._deferred.get(name)
        if tool is None or name in self._late:
            return name
        self._late[name] = tool
        return _described(tool)

    def changed(self, block: Fields) -> str:
        """What a block tool_addition or tool_removal says. One that adds has the tool's name, or the tool."""
        change = inner(block, "tool")
        definition = change.object("definition")
        if block.values.get("type") == "tool_removal":
            name = change.string("name") or ""
            self._late.pop(name, None)
            return f"The tool {name} can no longer be called."
        if definition is None:
            return self.told(change.string("name") or "")
        tool = _read(definition)
        if tool.name not in self._first:
            self._late[tool.name] = tool
        return _described(tool)


def _read(tool: Fields) -> Tool:
    schema: Mapping[str, object] = dict(inner(tool, "input_schema").values) or NO_PARAMETERS
    return Tool(tool_name(tool), tool.string("description") or "", schema, tool.boolean("strict"))


def _described(tool: Tool) -> str:
    """As templates write tools."""
    return f"From here on this tool can be called:\n{json.dumps(tool.as_template_data(), ensure_ascii=False)}"
