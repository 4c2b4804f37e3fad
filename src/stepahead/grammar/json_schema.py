"""What of JSON Schema can be enforced, and a schema cut down to that.

Everything that would let through what the schema forbids is refused with its place, or left out where the caller asked
for that. What constrains nothing is left out without a word: annotations, unknown keywords, and keywords whose value
allows everything. Sizes and depths are bounded before anything looks at a schema.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from stepahead.grammar.grammar_error import GrammarError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 64
MAX_REFERRED = 2000
"""Levels of all that is referred to, one upon the other."""

FORMATS = frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"))
"""Enforced; any other format is an annotation, as the standard has it."""

TYPES = frozenset(("null", "boolean", "integer", "number", "string", "array", "object"))

ENFORCED = frozenset((
    "anyOf", "oneOf", "allOf", "$ref", "const", "enum", "type", "items", "additionalItems", "prefixItems", "minItems",
    "maxItems", "properties", "additionalProperties", "patternProperties", "required", "minProperties",
    "maxProperties", "minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf",
))  # fmt: skip
"""Each within limits of its own; llguidance refuses what is beyond them."""

STRUCTURE = frozenset(("$defs", "definitions", "$schema", "$id", "$anchor"))
"""Kept for what refers to them."""

REFUSED = frozenset((
    "not", "if", "uniqueItems", "propertyNames", "unevaluatedItems", "unevaluatedProperties", "dependentSchemas",
    "dependentRequired", "dependencies", "contains", "$dynamicRef", "$recursiveRef",
))  # fmt: skip

_SUBSCHEMA = frozenset(("additionalProperties", "additionalItems", "items"))
_LISTS = frozenset(("anyOf", "oneOf", "allOf", "prefixItems", "items"))
_MAPS = frozenset(("properties", "patternProperties", "$defs", "definitions"))
_IN_PLACE = frozenset(("anyOf", "oneOf", "allOf", "$ref", "if", "dependentSchemas", "$dynamicRef", "not"))
"""Beside these, unevaluatedProperties and additionalProperties differ."""

_HARMLESS: dict[str, tuple[Any, ...]] = {
    "not": (False,),
    "uniqueItems": (False,),
    "propertyNames": (True, {}, {"type": "string"}),
    "unevaluatedItems": (True, {}),
    "unevaluatedProperties": (True, {}),
    "dependentSchemas": ({},),
    "dependentRequired": ({},),
    "dependencies": ({},),
}
"""Values of refused keywords that allow everything."""

_PLAIN_NAME = re.compile(r"[\w$-]{1,64}")
_KNOWN_DRAFT = re.compile(r"https?://json-schema\.org/(draft-0[4-7]/schema|draft/20(19-09|20-12)/schema)#?")
_DRAFT_4 = re.compile(r"https?://json-schema\.org/draft-04/schema#?")


@dataclass(slots=True)
class _Cut:
    """A schema on its way to what can be enforced."""

    is_lenient: bool
    keeps_id: bool
    places: list[tuple[str, str]] = field(default_factory=list)  # (path, what is wrong there)

    def refuse(self, path: str, what: str) -> None:
        if len(self.places) < 20:
            self.places.append((path, what))


def enforceable(schema: Mapping[str, Any] | bool, is_lenient: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The schema as it can be enforced, and what was left out of it, if it is lenient.

    Raises GrammarError for a schema that is too large or no JSON, and for what cannot be enforced.
    """
    check_size(schema)
    if isinstance(schema, bool):
        if not schema:
            raise GrammarError("the schema is false, which nothing satisfies", ("",))
        return {}, ()
    if not isinstance(schema, Mapping):
        raise GrammarError(f"a schema is an object or a bool, not a {type(schema).__name__}", ("",))
    cut = _Cut(is_lenient, bool(_DRAFT_4.fullmatch(str(schema.get("$schema", "")))))
    result = _reduced(cut, schema, "")
    listed = tuple(f"{path or 'the schema'}: {what}" for path, what in cut.places)
    if cut.places and not is_lenient:
        raise GrammarError(
            f"cannot be enforced: {'; '.join(listed)}; leave it out, or ask for lenient enforcement",
            tuple(path for path, _ in cut.places),
        )
    return result, listed


def check_size(value: Any, what: str = "schema") -> None:
    """Raises GrammarError for a value that is too deep, too large or no JSON, before anything recurses into it."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise GrammarError(f"the {what} is nested deeper than {MAX_DEPTH} levels: flatten it")
        level = [inner for outer in level for inner in _inside(outer)]
        if len(level) > MAX_BYTES:
            raise GrammarError(f"the {what} is larger than {MAX_BYTES // 1024} KiB: shorten it")
    try:
        size = len(json.dumps(value, allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError) as error:
        raise GrammarError(f"the {what} is no JSON: {type(error).__name__}") from None
    if size > MAX_BYTES:
        raise GrammarError(f"the {what} is larger than {MAX_BYTES // 1024} KiB: shorten it")
    _check_references(value, what)


def _check_references(root: Any, what: str) -> None:
    """llguidance follows one reference within another, and what they refer to inwards."""
    level, targets = [root], set[str]()
    while level:
        targets |= {
            outer["$ref"] for outer in level if isinstance(outer, Mapping) and isinstance(outer.get("$ref"), str)
        }
        level = [inner for outer in level for inner in _inside(outer)]
    depth = sum(_depth(resolved({"$ref": target}, root, 1)) for target in targets)
    if depth > MAX_REFERRED:
        raise GrammarError(
            f"what the {what} refers to is {depth} levels deep in all, and at most {MAX_REFERRED}: refer to less"
        )


def resolved(schema: Any, root: Mapping[str, Any], hops: int = 16) -> Any:
    """The schema, or what its $ref stands for; the schema again where that is not to be found."""
    for _ in range(hops):
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            break
        found: Any = root
        for part in reference[2:].split("/"):
            found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
        if found is None:
            break
        schema = found
    return schema


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level:
        level, depth = [inner for outer in level for inner in _inside(outer)], depth + 1
    return depth


def definitions(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas that others may refer to, with their paths."""
    for keyword in ("$defs", "definitions"):
        named = schema.get(keyword)
        if isinstance(named, Mapping):
            yield from ((at_name("", keyword, named, name), inner) for name, inner in named.items())


def subschemas(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The schemas directly within one, with their paths; not those of names that are referred to."""
    for keyword, value in schema.items():
        if keyword in _MAPS and keyword not in STRUCTURE and isinstance(value, Mapping):
            yield from ((at_name(path, keyword, value, name), inner) for name, inner in value.items())
        elif keyword in _LISTS and isinstance(value, list):
            yield from ((f"{at(path, keyword)}[{number}]", inner) for number, inner in enumerate(value))
        elif keyword in _SUBSCHEMA and isinstance(value, Mapping):
            yield at(path, keyword), value


def at(path: str, keyword: str) -> str:
    return f"{path}.{keyword}" if path else keyword


def at_name(path: str, keyword: str, names: Mapping[str, Any], name: str) -> str:
    """A name of the caller's choosing: as it is if it is a plain one, else by its number."""
    shown = f".{name}" if _PLAIN_NAME.fullmatch(name) else f"[{list(names).index(name)}]"
    return at(path, keyword) + shown


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple):
        yield from value


def _reduced(cut: _Cut, schema: Any, path: str) -> Any:
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, Mapping):
        cut.refuse(path, f"a schema is an object or a bool, not a {type(schema).__name__}")
        return True
    result: dict[str, Any] = {}
    for keyword, value in _without_synonyms(schema).items():
        if keyword in ENFORCED or keyword in STRUCTURE or (keyword == "id" and cut.keeps_id):
            if _is_kept(cut, keyword, value, path):
                result[keyword] = _inner(cut, keyword, value, path)
        elif keyword in REFUSED and not _allows_all(keyword, value, schema):
            cut.refuse(at(path, keyword), "is not supported")
    return result


def _inner(cut: _Cut, keyword: str, value: Any, path: str) -> Any:
    here = at(path, keyword)
    if keyword in _MAPS and isinstance(value, Mapping):
        return {name: _reduced(cut, inner, at_name(path, keyword, value, name)) for name, inner in value.items()}
    if keyword in _LISTS and isinstance(value, list):
        return [_reduced(cut, inner, f"{here}[{number}]") for number, inner in enumerate(value)]
    if keyword in _SUBSCHEMA:
        return _reduced(cut, value, here)
    return value


def _without_synonyms(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Some refused keywords in the words of enforced ones, where they mean the same."""
    result = dict(schema)
    names = result.get("propertyNames")
    if isinstance(names, Mapping) and not result.keys() & {"properties", "patternProperties"}:
        rest = result.get("additionalProperties", True)
        if names.keys() <= {"type", "pattern"} and "pattern" in names:
            result |= {"patternProperties": {names["pattern"]: rest}, "additionalProperties": False}
            del result["propertyNames"]
        elif names.keys() <= {"type", "enum"} and _are_strings(names.get("enum")):
            result |= {"properties": dict.fromkeys(names["enum"], rest), "additionalProperties": False}
            del result["propertyNames"]
    if "additionalProperties" not in result and not result.keys() & _IN_PLACE and "unevaluatedProperties" in result:
        result["additionalProperties"] = result.pop("unevaluatedProperties")
    return result


def _are_strings(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _is_kept(cut: _Cut, keyword: str, value: Any, path: str) -> bool:
    """False for what does not matter, or is wrong and has been refused."""
    if keyword == "format":
        return value in FORMATS if isinstance(value, str) else False
    if keyword == "$schema":
        return isinstance(value, str) and bool(_KNOWN_DRAFT.fullmatch(value))
    wrong = ""
    if keyword == "type":
        types = value if isinstance(value, list) else [value]
        if not types or not all(isinstance(one, str) and one in TYPES for one in types):
            wrong = f"is none of {', '.join(sorted(TYPES))}"
    elif keyword == "required" and not _are_strings(value):
        wrong = "is no list of names"
    elif keyword == "$ref" and not isinstance(value, str):
        wrong = "is no text"
    elif keyword in _MAPS and not isinstance(value, Mapping):
        wrong = "is no object"
    elif keyword in _LISTS - _SUBSCHEMA and not (isinstance(value, list) and value):
        wrong = "is no list of schemas"
    if wrong:
        cut.refuse(at(path, keyword), wrong)
    return not wrong


def _allows_all(keyword: str, value: Any, schema: Mapping[str, Any]) -> bool:
    """True where a refused keyword constrains nothing."""
    if keyword == "if":
        return not schema.keys() & {"then", "else"}
    return any(value == harmless and type(value) is type(harmless) for harmless in _HARMLESS.get(keyword, ()))
