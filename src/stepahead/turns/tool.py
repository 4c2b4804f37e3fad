"""The tools that a request offers, and what it says about using them. No wire format: every endpoint makes these."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stepahead.turns.output_format import GrammarText


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. parameters: a JSON schema of type object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    is_strict: bool = False  # arguments must follow the schema: enforced by a grammar
    grammar: GrammarText | None = None  # of the only argument, a string; of a strict tool
    place: str = ""  # in the request, for errors

    def as_template_data(self) -> dict[str, Any]:
        """As chat templates expect it: {"type": "function", "function": {...}}."""
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": dict(self.parameters)},
        }


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """auto: the model decides; none: no call; required: at least one call; named: calls of `names` alone."""

    mode: Literal["auto", "none", "required", "named"] = "auto"
    names: tuple[str, ...] = ()
    is_parallel: bool = True  # False: one call at most
