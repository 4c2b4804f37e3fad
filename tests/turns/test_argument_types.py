"""Values by schema, and schemas of callers who may write anything."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepahead.turns.argument_types import STRING, argument_types, as_json


def types_of(schema, **parameters):
    return set(argument_types({"type": "object", "properties": {"x": schema}, **parameters})["x"])


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "integer"}, {"integer"}),
        ({"type": ["string", "null"]}, {"string", "null"}),
        ({"enum": ["a", "b"]}, {"string"}),
        ({"enum": ["a", 1, None]}, {"string", "integer", "number", "null"}),
        ({"const": 2.5}, {"number"}),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, {"integer", "null"}),
        ({"oneOf": [{"type": "boolean"}, {}]}, {"boolean", "string"}),
        ({"type": "integer", "anyOf": [{"minimum": 1}, {"maximum": -1}]}, {"integer"}),
        ({"allOf": [{"minimum": 1}, {"type": "number"}]}, {"number"}),
        ({"$ref": "#/$defs/point"}, {"object"}),
        ({"$ref": "#/$defs/a~1b"}, {"array"}),
        ({"$ref": "#/$defs/circle"}, {"string"}),
        ({"$ref": "#/nothing/here"}, {"string"}),
        ({"$ref": "http://x/y"}, {"string"}),
        ({"properties": {}}, {"object"}),
        ({"items": {}}, {"array"}),
        ({"description": "anything"}, {"string"}),
        ({"type": "file"}, {"string"}),
        (True, {"string"}),
        (None, {"string"}),
    ],
)
def test_types_of_schemas(schema, types):
    definitions = {
        "point": {"type": "object"},
        "a/b": {"items": {}},
        "circle": {"anyOf": [{"$ref": "#/$defs/circle"}, {"$ref": "#/$defs/circle"}]},
    }
    assert types_of(schema, **{"$defs": definitions}) == types


@pytest.mark.parametrize("parameters", [None, True, {}, [], {"properties": None}, {"properties": {1: {}}}])
def test_parameters_that_say_nothing(parameters):
    assert argument_types(parameters) == {}


@pytest.mark.parametrize(
    ("text", "types", "expected"),
    [
        ("3", {"integer"}, "3"),
        (" 3\n", {"integer"}, "3"),
        ("3.0", {"integer"}, "3"),
        ("3.5", {"integer"}, '"3.5"'),
        ("3", {"number"}, "3"),
        ("1e5", {"number"}, "1e5"),
        ("true", {"integer"}, '"true"'),
        ("1", {"boolean"}, '"1"'),
        ("True", {"boolean"}, "true"),
        ("True", {"boolean", "string"}, '"True"'),
        ("true", {"boolean", "string"}, "true"),
        ("null", {"string", "null"}, "null"),
        ("null", {"string"}, '"null"'),
        ('"quoted"', {"string", "integer"}, '"\\"quoted\\""'),
        (" a ", {"string", "integer"}, '" a "'),
        ("[1, 2]", {"array"}, "[1, 2]"),
        ('{"a":  1}', {"object"}, '{"a":  1}'),
        ("{'a': 1}", {"object"}, "\"{'a': 1}\""),
        ("Infinity", {"number"}, '"Infinity"'),
        ("1e999", {"number"}, '"1e999"'),
        ("[1e999]", {"array"}, '"[1e999]"'),
        (r'["\ud83d\ude00 \ud83d é"]', {"array"}, '["😀 \ufffd é"]'),
        ("[" * 200 + "]" * 200, {"array"}, '"' + "[" * 200 + "]" * 200 + '"'),
        ("1" * 5000, {"integer"}, '"' + "1" * 5000 + '"'),
        ("[" * 100_000, {"array"}, '"' + "[" * 100_000 + '"'),
    ],
)
def test_values(text, types, expected):
    assert as_json(text, frozenset(types)) == expected


NAMES = st.sampled_from(
    ["type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "items", "properties", "$defs", "x"]
)
SCHEMAS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["string", "integer", "#", "#/$defs/x", "#/properties/x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(NAMES, SCHEMAS), SCHEMAS, st.text(max_size=6) | st.sampled_from(["1", "null", "[]", "1e9", "-0"])
)
def test_no_schema_raises_and_all_values_are_json(parameters, schema, text):
    types = argument_types({**parameters, "properties": {"x": schema}})["x"]
    assert isinstance(json.loads(as_json(text, types)), str) or types != STRING


def test_schemas_that_refer_to_themselves_take_no_time():
    branches = {"anyOf": [{"$ref": "#/properties/x"}] * 20}
    assert types_of(branches) == {"string"}
    deep = {"type": "null"}
    for _ in range(200):
        deep = {"anyOf": [deep]}
    assert types_of(deep) == {"string"}
