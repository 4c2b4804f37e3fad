"""Values that stand in a call as they are, without quotes or escapes: which texts a schema of strings allows."""

import json
import re
from collections.abc import Mapping
from typing import Any

from llguidance import regex_to_lark

from stepahead.grammar.grammar_error import GrammarError
from stepahead.grammar.json_schema import resolved
from stepahead.grammar.lark import literal

MAX_CHOICES = 4096
MAX_LENGTH = 100_000
"""Of a text whose length is counted."""

_MAX_DEPTH = 16
_CONSTRAINTS = ("minLength", "maxLength", "pattern")
_ALTERNATIVES = ("anyOf", "oneOf", "allOf")


def choices(schema: Any, root: Mapping[str, Any], depth: int = 0) -> list[str] | None:
    """The only values that a schema allows, as they stand in a call; None: there are others."""
    schema = resolved(schema, root)
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return None
    if "const" in schema:
        return [_as_written(schema["const"])]
    if isinstance(schema.get("enum"), list):
        return [_as_written(value) for value in schema["enum"]]
    for keyword in ("anyOf", "oneOf"):
        if isinstance(schema.get(keyword), list):
            found = [choices(inner, root, depth + 1) for inner in schema[keyword]]
            listed = [value for values in found if values is not None for value in values]
            return listed if all(values is not None for values in found) and len(listed) <= MAX_CHOICES else None
    return None


def text_pattern(schema: Any, root: Mapping[str, Any]) -> str:
    """A Lark terminal for the texts that a schema of strings allows. Raises GrammarError, with the place, for a
    constraint that cannot be enforced in raw text."""
    schema = resolved(schema, root)
    parts: list[str] = []
    if isinstance(schema, Mapping):
        for keyword in _ALTERNATIVES:
            if any(_is_constrained(inner, root) for inner in schema.get(keyword, ())):
                raise GrammarError(f"{keyword}: constrains a text in a way that is not supported", (keyword,))
        parts += _length(schema)
        parts += _pattern(schema)
    return " & ".join(parts) or "/(?s:.*)/"


def _as_written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_constrained(schema: Any, root: Mapping[str, Any]) -> bool:
    schema = resolved(schema, root)
    return isinstance(schema, Mapping) and any(keyword in schema for keyword in (*_CONSTRAINTS, *_ALTERNATIVES))


def _length(schema: Mapping[str, Any]) -> list[str]:
    low, high = schema.get("minLength", 0), schema.get("maxLength")
    for keyword, value in (("minLength", low), ("maxLength", high)):
        if value is not None and not (isinstance(value, int) and 0 <= value <= MAX_LENGTH):
            raise GrammarError(f"{keyword}: is no number from 0 to {MAX_LENGTH}", (keyword,))
    if not low and high is None:
        return []
    return [f"/(?s:.){{{low},{'' if high is None else high}}}/"]


def _pattern(schema: Mapping[str, Any]) -> list[str]:
    """A pattern is looked for anywhere in a text, unless it is anchored."""
    pattern = schema.get("pattern")
    if pattern is None:
        return []
    if not isinstance(pattern, str):
        raise GrammarError("pattern: is no text", ("pattern",))
    begins = pattern.startswith("^")
    ends = bool(re.search(r"(?<!\\)(?:\\\\)*\$$", pattern))
    body = pattern[begins : len(pattern) - ends]
    if (begins or ends) and "|" in _outside_groups(body):
        raise GrammarError(
            "pattern: has anchors in alternatives, which is not supported: put them in a group", ("pattern",)
        )
    before, after = "" if begins else "(?s:.*)", "" if ends else "(?s:.*)"
    return [f"/{before}(?:{regex_to_lark(body, 'dw')}){after}/"]


def _outside_groups(pattern: str) -> str:
    """A pattern without what stands in parentheses or brackets."""
    kept, depth, is_class, is_escaped = "", 0, False, False
    for char in pattern:
        if is_escaped:
            is_escaped = False
        elif char == "\\":
            is_escaped = True
        elif is_class:
            is_class = char != "]"
        elif char == "[":
            is_class = True
        elif char in "()":
            depth += 1 if char == "(" else -1
        elif depth == 0:
            kept += char
    return kept


def choice_of(values: list[str], ending: str) -> str:
    """One of some texts, then another. Raises GrammarError for a text that could not be told from its end."""
    if any(ending.strip() in value for value in values):
        raise GrammarError("a value holds the tag that ends values", ("enum",))
    return f"({' | '.join(literal(value) for value in values)}) {literal(ending)}"
