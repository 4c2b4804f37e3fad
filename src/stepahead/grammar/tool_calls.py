"""Lark for calls of tools: what stands between a call's marks.

In Step's format a value of string type is raw text and ends at its own tag; any other value is JSON. So a call is made
of its parameters' rules, by the types that the reader of calls goes by (turns/argument_types.py).
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llguidance import regex_to_lark

from stepahead.grammar.grammar_error import GrammarError
from stepahead.grammar.json_schema import STRUCTURE, at_name, check_size, enforceable, resolved
from stepahead.grammar.lark import json_value, literal
from stepahead.grammar.raw_text import choice_of, choices, text_pattern
from stepahead.turns.argument_types import STRING, argument_types
from stepahead.turns.output_format import GrammarText
from stepahead.turns.tool import Tool

VALUE_END = "\n</parameter>\n"
ANY_TEXT = "/(?s:.*)/"
OBJECT: dict[str, Any] = {"type": "object"}

_WHOLE = frozenset(
    ("anyOf", "oneOf", "allOf", "$ref", "const", "enum", "patternProperties", "minProperties", "maxProperties")
)
"""Keywords that constrain arguments as a whole, which parameter by parameter cannot be done."""

_NAME = re.compile(r"[^<>\n\"\\\x00-\x1f\ud800-\udfff]{1,256}")


@dataclass(slots=True, eq=False)
class CallRules:
    """Rules of the calls of one tool. Each name that is made here ends in the tool's number."""

    tool: Tool
    number: int
    lines: list[str] = field(default_factory=list)
    schemas: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)  # JSON rules: (place, schema)
    patterns: dict[str, tuple[str, str]] = field(default_factory=dict)  # terminals of raw text: (place, pattern)
    warnings: list[str] = field(default_factory=list)
    custom_rule: str = ""  # the value that follows the tool's own grammar, side_grammar
    is_custom_free: bool = False  # it cannot be made to

    @property
    def place(self) -> str:
        """Of the tool, in the request."""
        return self.tool.place or f"tools[{self.number}]"

    @property
    def side_grammar(self) -> str:
        """The name by which the tool's own grammar is referred to."""
        return f"input_{self.number}"

    @property
    def name(self) -> str:
        """The rule of a whole call."""
        return f"call_{self.number}"

    def text(self) -> str:
        """All rules."""
        values = (
            f"{rule}: {json_value(schema, not self.tool.is_strict)}" for rule, (_, schema) in self.schemas.items()
        )
        texts = (f"{terminal}: {pattern}" for terminal, (_, pattern) in self.patterns.items())
        return "\n".join([*self.lines, *values, *texts, *self._custom(), ""])

    def _custom(self) -> Iterator[str]:
        if self.custom_rule and self.is_custom_free:
            yield f"{self.custom_rule}[suffix={literal(VALUE_END)}]: {ANY_TEXT}"
        elif self.custom_rule:
            yield f"{self.custom_rule}: @{self.side_grammar} {literal(VALUE_END)}"

    def give_up(self, path: str, why: str) -> None:
        """Refuse a tool that must be followed to the letter; else remember what is not enforced."""
        if self.tool.is_strict:
            place = f"{self.place}.parameters"
            raise GrammarError(f"{place}: {why}", (f"{place}.{path}" if path else place,))
        self.warnings.append(f"{self.place}.parameters: not enforced: {why}")

    def give_up_grammar(self, why: str) -> None:
        """Take any text for what should follow the tool's own grammar."""
        self.is_custom_free = True
        self.warnings.append(f"{self.place}.format: not enforced: {why}")


def json_call(tool: Tool, number: int) -> CallRules:
    """{"name": ..., "arguments": {...}}, on a line of its own."""
    call = CallRules(_named(tool, number), number)
    rule = f"arguments_{number}"
    call.schemas[rule] = ("", {**OBJECT, **_enforced(call, _with_pattern(call), "")})
    before = literal(f'\n{{"name": {json.dumps(tool.name, ensure_ascii=False)}, "arguments": ')
    call.lines.append(f"{call.name}: {before} {rule} {literal('}' + chr(10))}")
    return call


def _with_pattern(call: CallRules) -> Mapping[str, Any]:
    """The schema of the arguments; a regular expression for its only one is a pattern there."""
    grammar, schema = call.tool.grammar, call.tool.parameters
    if grammar is None:
        return schema
    if grammar.syntax != "regex":
        call.give_up_grammar("a grammar cannot be followed within a JSON string")
        return schema
    return {**schema, "properties": {
        name: {**value, "pattern": f"^(?:{grammar.text})$"} for name, value in schema["properties"].items()
    }}  # fmt: skip


def xml_call(tool: Tool, number: int) -> CallRules:
    """<function=NAME>, each parameter in the order of the schema, </function>, on lines of their own."""
    call = CallRules(_named(tool, number), number)
    root = _parameters(call)
    properties: dict[str, Any] = root.get("properties", {})
    required: list[str] = root.get("required", [])
    types = argument_types(root)
    parts = [literal(f"\n<function={tool.name}>\n")]
    for place, name in enumerate(dict.fromkeys((*properties, *required))):
        if not _NAME.fullmatch(name):
            call.give_up("properties", f"the name of parameter {place} cannot stand in a tag")
            continue
        rule = f"p_{number}_{place}"
        path = at_name("", "properties", properties, name) if name in properties else "required"
        value = _value(call, rule, path, properties.get(name, True), types.get(name, STRING), root)
        call.lines.append(f"{rule}: {literal(f'<parameter={name}>' + chr(10))} {value}")
        parts.append(rule if name in required else f"{rule}?")
    if not properties and root.get("additionalProperties") is not False:
        call.lines.append(f'any_{number}: "<parameter=" /[\\w.-]{{1,64}}/ ">\\n" any_text_{number}')
        call.lines.append(f"any_text_{number}[suffix={literal(VALUE_END)}]: {ANY_TEXT}")
        parts.append(f"any_{number}*")
    call.lines.append(f"{call.name}: {' '.join(parts)} {literal('</function>' + chr(10))}")
    return call


def _named(tool: Tool, number: int) -> Tool:
    if not _NAME.fullmatch(tool.name):
        raise GrammarError(f"tools[{number}].name: cannot stand in a call", (f"tools[{number}].name",))
    return tool


def _enforced(call: CallRules, schema: Any, path: str) -> dict[str, Any]:
    """The part of a schema that can be enforced."""
    check_size(schema, "schema of a tool")
    try:
        result, left_out = enforceable(schema, not call.tool.is_strict)
    except GrammarError as error:
        call.give_up(".".join(part for part in (path, *error.places[:1]) if part), str(error))
        return {}
    call.warnings += [f"{call.place}.parameters: not enforced: {one}" for one in left_out]
    return result


def _parameters(call: CallRules) -> dict[str, Any]:
    """The schema of an object with properties that the arguments have."""
    root = _enforced(call, call.tool.parameters, "")
    shared = {key: root[key] for key in STRUCTURE if key in root}
    if "$ref" in root and "properties" not in root:
        root = {**shared, **resolved(root, root)}
    for keyword in sorted(_WHOLE & root.keys()):
        call.give_up(keyword, f"{keyword} of all arguments together is not supported")
    return root


def _value(call: CallRules, rule: str, path: str, schema: Any, types: frozenset[str], root: Mapping[str, Any]) -> str:
    """An expression for one value and the tag after it."""
    if call.tool.grammar is not None:
        return _custom_value(call, rule, call.tool.grammar)
    shared = {key: root[key] for key in STRUCTURE if key in root}
    if "string" not in types:
        call.schemas[f"{rule}_json"] = (
            path,
            {"type": sorted(types), **(schema if isinstance(schema, dict) else {}), **shared},
        )
        return f"{rule}_json {literal(VALUE_END)}"
    try:
        listed = choices(schema, root)
        if listed:
            return choice_of(listed, VALUE_END)
        pattern = text_pattern(schema, root)
    except GrammarError as error:
        call.give_up(f"{path}.{error.places[0]}", str(error))
        pattern = ANY_TEXT
    call.lines.append(f"{rule}_text[suffix={literal(VALUE_END)}]: {rule.upper()}")
    if not types & {"object", "array"}:
        call.patterns[rule.upper()] = (path, pattern)
        return f"{rule}_text"
    # What begins like an object or an array is read as one, so it must be one that the schema allows.
    container = {"allOf": [schema, {"type": ["array", "object"]}], **shared}
    call.schemas[f"{rule}_json"] = (path, container)
    call.patterns[rule.upper()] = (path, f"/([^\\s\\[{{](?s:.*))?/ & {pattern}")
    return f"({rule}_text | {rule}_json {literal(VALUE_END)})"


def _custom_value(call: CallRules, rule: str, grammar: GrammarText) -> str:
    if grammar.syntax == "regex":
        call.lines.append(f"{rule}_text[suffix={literal(VALUE_END)}]: {rule.upper()}")
        call.patterns[rule.upper()] = ("format.definition", f"/(?:{regex_to_lark(grammar.text, '')})/")
        return f"{rule}_text"
    call.custom_rule = f"{rule}_custom"
    return call.custom_rule
