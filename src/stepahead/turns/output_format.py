"""What the content of an answer must look like. No wire format: every endpoint makes these."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class JsonObject:
    """Any JSON object."""


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """JSON that follows a schema. is_lenient: keywords that cannot be enforced are left out instead of refused."""

    schema: Mapping[str, Any] | bool
    is_lenient: bool = False


@dataclass(frozen=True, slots=True)
class GrammarText:
    """Text of a grammar."""

    syntax: Literal["lark", "gbnf", "regex"]
    text: str


OutputFormat = JsonObject | JsonSchema | GrammarText
