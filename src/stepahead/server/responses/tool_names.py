"""The tools of one request under the names that the model sees, and how a call of each is told to the client."""

from dataclasses import dataclass, field, replace
from typing import Literal

from stepahead.turns.tool import Tool

CUSTOM_INPUT = "input"  # a custom tool takes any text; for the model it is a function with this one argument


@dataclass(frozen=True, slots=True)
class WireName:
    """A tool as the client named it."""

    name: str
    namespace: str | None = None
    kind: Literal["function", "custom"] = "function"

    def fields(self) -> dict[str, str]:
        """The client knows no joined names: Codex rejects every spelling of them."""
        return {"name": self.name} if self.namespace is None else {"name": self.name, "namespace": self.namespace}


@dataclass(slots=True)
class ToolNames:
    """Both directions between a client's names and the model's."""

    tools: list[Tool] = field(default_factory=list)
    _by_model: dict[str, WireName] = field(default_factory=dict)
    _by_wire: dict[tuple[str, str | None], str] = field(default_factory=dict)

    def add(self, wire: WireName, tool: Tool) -> None:
        """A tool that is not offered yet; its name is found here."""
        name = joined = _joined(wire.name, wire.namespace)
        number = 2
        while name in self._by_model:
            name, number = f"{joined}_{number}", number + 1
        self._by_model[name] = wire
        self._by_wire[wire.name, wire.namespace] = name
        self.tools.append(replace(tool, name=name))

    def for_model(self, name: str, namespace: str | None) -> str:
        """Also of a tool that is offered no more: the history may hold calls of it."""
        return self._by_wire.get((name, namespace), _joined(name, namespace))

    def for_client(self, name: str) -> WireName:
        return self._by_model.get(name) or WireName(name)

    def offers(self, name: str, namespace: str | None) -> bool:
        return (name, namespace) in self._by_wire


def _joined(name: str, namespace: str | None) -> str:
    return name if namespace is None else f"{namespace}__{name}"
