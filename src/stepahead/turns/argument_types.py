"""What a parameter's schema says about the value that a model wrote as text.

Owns the step from text to JSON. Schemas come from callers and may be anything: nothing here raises.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

from stepahead.turns.plain_json import json_string, loads

JsonType = Literal["string", "integer", "number", "boolean", "null", "array", "object"]
_TYPES: tuple[JsonType, ...] = ("string", "integer", "number", "boolean", "null", "array", "object")
STRING: frozenset[JsonType] = frozenset(("string",))

_MAX_DEPTH = 32  # of alternatives within alternatives


def argument_types(parameters: Any) -> dict[str, frozenset[JsonType]]:
    """The types that each parameter of a tool may have. One about which nothing is said is a string."""
    if not isinstance(parameters, Mapping) or not isinstance(parameters.get("properties"), Mapping):
        return {}
    return {
        name: _types(schema, parameters, set()) or STRING
        for name, schema in parameters["properties"].items()
        if isinstance(name, str)
    }


def as_json(text: str, types: frozenset[JsonType]) -> str:
    """A value as JSON of one of `types`; as a JSON string where it is none, so that the tool can complain."""
    stripped = text.strip()
    if stripped in ("True", "False") and "boolean" in types and "string" not in types:
        stripped = stripped.lower()  # as Python writes it
    try:
        value = None if types == STRING else loads(stripped)
    except ValueError:
        return json_string(text)
    kinds = _kinds_of(value) & types
    if not kinds or isinstance(value, str):
        return json_string(text)  # strings are written without quotes: quotes are part of them
    if "integer" in kinds and isinstance(value, float):
        return str(int(value))
    # As the model wrote it, so that no digit is lost; but half a character may have been replaced.
    return json.dumps(value, ensure_ascii=False) if "\\u" in stripped else stripped


def _types(schema: Any, root: Mapping[str, Any], seen: set[str], depth: int = 0) -> frozenset[JsonType] | None:
    """None: nothing is said. `seen`: references on the way, each followed once, since they may form circles."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return None
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference not in seen:
        seen.add(reference)
        return _types(_referred(reference, root), root, seen, depth + 1)
    if isinstance(schema.get("allOf"), list):
        known = (_types(one, root, seen, depth + 1) for one in schema["allOf"])
        return next((one for one in known if one), None)
    alternatives = schema.get("anyOf") or schema.get("oneOf")
    if "type" not in schema and isinstance(alternatives, list):
        return frozenset().union(*(_types(one, root, seen, depth + 1) or STRING for one in alternatives))
    return _own_types(schema)


def _own_types(schema: Mapping[str, Any]) -> frozenset[JsonType] | None:
    """By what a schema says itself."""
    named = schema.get("type")
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(named, str | list):
        names = [named] if isinstance(named, str) else named
        return frozenset(one for one in _TYPES if one in names) or None
    if isinstance(values, list):
        return frozenset().union(*map(_kinds_of, values)) or None
    if "properties" in schema or "additionalProperties" in schema:
        return frozenset(("object",))
    return frozenset(("array",)) if "items" in schema else None


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    if not reference.startswith("#/"):
        return None
    found: Any = root
    for part in reference[2:].split("/"):
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return found


def _kinds_of(value: Any) -> frozenset[JsonType]:
    """The types that a parsed value is of."""
    if value is None:
        return frozenset(("null",))
    if isinstance(value, bool):
        return frozenset(("boolean",))
    if isinstance(value, int):
        return frozenset(("integer", "number"))
    if isinstance(value, float):
        return frozenset(("integer", "number") if value.is_integer() else ("number",))
    if isinstance(value, str):
        return STRING
    return frozenset(("array",)) if isinstance(value, list) else frozenset(("object",))
