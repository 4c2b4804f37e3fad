"""Which part of JSON Schema is enforced, and how the rest is refused: by name and place."""

import json

import pytest

pytest.importorskip("llguidance", reason="grammars need llguidance: pip install 'stepahead[server]'")

from stepahead.errors import RequestError
from stepahead.grammar import GrammarError
from stepahead.grammar.json_schema import MAX_BYTES, MAX_DEPTH, enforceable
from stepahead.turns.output_format import JsonObject, JsonSchema

STRING, INTEGER = {"type": "string"}, {"type": "integer"}


def object_of(**properties: object) -> dict[str, object]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


CASES = {
    "types": ({"type": ["integer", "null"]}, [1, None, -3], ["a", 1.5, {}]),
    "bool": (True, [1, "a", {"b": []}, None], []),
    "enum": ({"enum": ["a", 1, None, {"b": [2]}]}, ["a", 1, None, {"b": [2]}], ["b", 2, {"b": [3]}]),
    "const": ({"const": "x"}, ["x"], ["y"]),
    "object": (object_of(a=STRING, b=INTEGER), [{"a": "x", "b": 1}], [{"a": "x"}, {"b": 1, "a": "x"}, {}]),
    "optional": ({"type": "object", "properties": {"a": STRING}}, [{}, {"a": ""}, {"z": 1}], [{"a": 1}]),
    "nested": (
        object_of(a=object_of(b={"type": "array", "items": INTEGER})),
        [{"a": {"b": [1, 2]}}],
        [{"a": {"b": ["x"]}}],
    ),
    "bounds": ({"type": "integer", "minimum": 3, "exclusiveMaximum": 9}, [3, 8], [2, 9, 30]),
    "multiple": ({"type": "integer", "multipleOf": 5}, [0, 15], [7]),
    "length": ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "äöü"], ["a", "abcd"]),
    "pattern": ({"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"}, ["AB-12"], ["ab-12", "AB-"]),
    "format": ({"type": "string", "format": "date"}, ["2024-02-29"], ["yesterday", "2024-13-01"]),
    "array": ({"type": "array", "items": INTEGER, "minItems": 1, "maxItems": 2}, [[1], [1, 2]], [[], [1, 2, 3]]),
    "tuple": (
        {"type": "array", "prefixItems": [STRING, INTEGER], "items": False},
        [["a", 1]],
        [["a", "b"], ["a", 1, 2]],
    ),
    "any of": ({"anyOf": [STRING, object_of(a=INTEGER)]}, ["x", {"a": 1}], [1, {"a": "x"}]),
    "one of": ({"oneOf": [object_of(k={"const": "a"}), object_of(k={"const": "b"})]}, [{"k": "b"}], [{"k": "c"}]),
    "all of": ({"allOf": [object_of(a=STRING), {"required": ["a"]}]}, [{"a": "x"}], [{}, {"a": 1}]),
    "reference": ({"$ref": "#/$defs/n", "$defs": {"n": INTEGER}}, [4], ["a"]),
    "recursion": (
        {
            "$ref": "#/$defs/node",
            "$defs": {
                "node": {
                    "type": "object",
                    "properties": {"next": {"$ref": "#/$defs/node"}},
                    "additionalProperties": False,
                }
            },
        },
        [{}, {"next": {"next": {}}}],
        [{"next": 1}],
    ),
    "pattern properties": (
        {"type": "object", "patternProperties": {"^x-": INTEGER}, "additionalProperties": False},
        [{}, {"x-a": 1}],
        [{"y": 1}, {"x-a": "s"}],
    ),
    "names": ({"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}}, [{"a": 1}], [{"A": 1}]),
    "names of a list": ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, [{}, {"b": 1}], [{"c": 1}]),
    "unevaluated": (
        {"type": "object", "properties": {"a": STRING}, "unevaluatedProperties": False},
        [{"a": "x"}],
        [{"b": 1}],
    ),
    "draft 7": (
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": [STRING], "additionalItems": False},
        [["a"]],
        [["a", 1], [1]],
    ),
    "annotations": (
        {
            "title": "T",
            "description": "D",
            "$comment": "c",
            "examples": [1],
            "default": 3,
            "deprecated": True,
            "x-order": 1,
            "nullable": True,
            "type": "string",
            "format": "int64",
            "if": {"not": {}},
            "uniqueItems": False,
        },
        ["a"],
        [1, None],
    ),
}


def written(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize("name", CASES)
def test_what_is_enforced(demo, name: str) -> None:
    schema, good, bad = CASES[name]
    state = demo.factory.for_output(JsonSchema(schema))
    assert state.warnings == ()
    for value in good:
        for text in (
            written(value),
            json.dumps(value, ensure_ascii=False, separators=(",", ":")),
            json.dumps(value, ensure_ascii=False, indent=4),
        ):
            assert demo.accepts(state, text), text
    for value in bad:
        assert not demo.accepts(state, written(value)), value


def test_any_object(demo) -> None:
    state = demo.factory.for_output(JsonObject())
    assert demo.accepts(state, '{"a": [1, {"b": null}], "c": "ä\\n"}')
    for text in ("[]", '"a"', "1", " {}", '{"a": }', "{} {}"):
        assert not demo.accepts(state, text)


def test_white_space_is_bounded(demo) -> None:
    state = demo.factory.for_output(JsonObject())
    assert demo.accepts(state, '{ "a" : 1 , "b" :\n' + 40 * " " + "2 }")
    for space in (2 * " ", "\n\n", "\n" + 41 * " ", "\t"):
        assert not demo.accepts(state, '{"a":' + space + "1}")


REFUSED = {
    "not": (object_of(a={"not": STRING}), "properties.a.not"),
    "if": ({"if": object_of(a=STRING), "then": False}, "if"),
    "unique": ({"type": "array", "items": {"type": "array", "uniqueItems": True}}, "items.uniqueItems"),
    "contains": ({"anyOf": [STRING, {"contains": INTEGER}]}, "anyOf[1].contains"),
    "dependent": ({"$defs": {"x": {"dependentRequired": {"a": ["b"]}}}}, "$defs.x.dependentRequired"),
    "names": (object_of(a=STRING) | {"propertyNames": {"maxLength": 3}}, "propertyNames"),
    "unevaluated": ({"allOf": [{}], "unevaluatedProperties": False}, "unevaluatedProperties"),
    "strange name": (object_of(**{"a b": {"not": {}}}), "properties[0].not"),
    "type": (object_of(a={"type": "strng"}), "properties.a.type"),
    "required": ({"type": "object", "required": True}, "required"),
    "properties": ({"properties": [1]}, "properties"),
    "no schema": (object_of(a=3), "properties.a"),
    "false": (False, ""),
    # These are found by compiling.
    "one of": (object_of(a={"oneOf": [STRING, {"type": "string", "minLength": 3}]}), "properties.a"),
    "regex": (
        object_of(a=STRING, b={"anyOf": [INTEGER, {"type": "string", "pattern": "(?=x)y"}]}),
        "properties.b.anyOf[1]",
    ),
    "no such definition": (object_of(a={"$ref": "#/$defs/none"}), "properties.a"),
    "remote": (object_of(a={"$ref": "https://example.com/schema.json"}), "properties.a"),
    "impossible": (object_of(a={"type": "integer", "minimum": 3, "maximum": 1}), "properties.a"),
    "in a definition": ({"$defs": {"x": {"oneOf": [{}, {}]}}, "properties": {"a": {"$ref": "#/$defs/x"}}}, "$defs.x"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_with_its_place(demo, name: str) -> None:
    schema, place = REFUSED[name]
    with pytest.raises(GrammarError) as caught:
        demo.factory.for_output(JsonSchema(schema))
    assert isinstance(caught.value, RequestError)
    assert caught.value.places == (place,)
    assert place in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_places_are_told_at_once() -> None:
    schema = object_of(a={"not": {}}, b={"uniqueItems": True}, c={"contains": {}})
    with pytest.raises(GrammarError) as caught:
        enforceable(schema, is_lenient=False)
    assert caught.value.places == ("properties.a.not", "properties.b.uniqueItems", "properties.c.contains")


def test_lenient_schemas_lose_what_cannot_be_enforced(demo) -> None:
    schema = object_of(
        a={"type": "array", "items": INTEGER, "uniqueItems": True}, b={"oneOf": [STRING, {"minLength": 1}]}
    )
    state = demo.factory.for_output(JsonSchema(schema, is_lenient=True))
    assert state.warnings == ("properties.a.uniqueItems: is not supported",)
    assert demo.accepts(state, '{"a": [1, 1], "b": "x"}')
    assert not demo.accepts(state, '{"a": ["x"], "b": "x"}')


def test_a_schemas_own_options_are_not_taken(demo) -> None:
    options = {"whitespace_pattern": "[ ]{1000}", "lenient": True, "item_separator": ";"}
    state = demo.factory.for_output(JsonSchema({**object_of(a=INTEGER, b=INTEGER), "x-guidance": options}))
    assert demo.accepts(state, '{"a": 1, "b": 2}')
    with pytest.raises(GrammarError):
        demo.factory.for_output(JsonSchema({"not": {}, "x-guidance": {"lenient": True}}))


def deep(depth: int) -> dict[str, object]:
    schema: dict[str, object] = {"type": "integer"}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


def round_trip() -> dict[str, object]:
    schema: dict[str, object] = {}
    schema["items"] = schema
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        deep(MAX_DEPTH),
        deep(100_000),
        round_trip(),
        {"enum": ["x" * 1000] * 300},
        {"const": [[]] * (MAX_BYTES + 1)},
        {"const": float("nan")},
        {"const": {1, 2}},
        {"const": "\ud800"},
        {"properties": {"\ud800": {"not": {}}}},
        [],
        "x",
        None,
    ],
    ids=("deep", "deeper", "circle", "large", "wide", "nan", "set", "surrogate", "name", "list", "text", "null"),
)
def test_schemas_that_are_too_large_or_no_json(demo, schema) -> None:
    with pytest.raises(GrammarError):
        demo.factory.for_output(JsonSchema(schema))


def test_depth_below_the_limit_is_fine(demo) -> None:
    state = demo.factory.for_output(JsonSchema(deep(MAX_DEPTH - 2)))
    assert demo.accepts(state, "[" * (MAX_DEPTH - 2) + "7" + "]" * (MAX_DEPTH - 2))
