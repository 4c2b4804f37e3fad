"""Turns that call tools: the tools of coding agents, in both formats of calls, read back as the server reads them."""

import json
import random
import re
from pathlib import Path

import jsonschema
import pytest

pytest.importorskip("llguidance", reason="grammars need llguidance: pip install 'stepahead[server]'")

from stepahead.grammar import GrammarError
from stepahead.turns.argument_types import argument_types
from stepahead.turns.event import CallArguments, CallEnded, CallStarted, ContentText, ReasoningText
from stepahead.turns.output_format import JsonSchema
from stepahead.turns.tool import Tool, ToolChoice
from stepahead.turns.turn_format import CallSyntax, Mark, TurnFormat
from stepahead.turns.turn_text import TurnText, coalesced

LINES = (Path(__file__).parents[1] / "data" / "agent_tools.jsonl").read_text(encoding="utf-8").splitlines()
AGENT_TOOLS = {entry["name"]: entry for entry in map(json.loads, LINES)}
SYNTAXES = (CallSyntax.XML, CallSyntax.JSON)
REQUIRED = ToolChoice("required", is_parallel=False)
READ = Tool("read", "", {"type": "object", "properties": {"path": {"type": "string"}, "line": {"type": "integer"}}})
BASH = Tool(
    "bash", "", {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}, True
)


def format_of(reader, syntax: CallSyntax = CallSyntax.XML) -> TurnFormat:
    return TurnFormat(syntax, True, *(Mark.of(mark.text, reader.llm.tokenizer) for mark in TurnFormat().marks))


def tool_of(entry: dict, is_strict: bool) -> Tool:
    return Tool(entry["name"], entry["description"], entry["parameters"], is_strict)


def written(entry: dict, syntax: CallSyntax) -> str:
    """A call as the model's template renders it."""
    arguments = entry["arguments"]
    if syntax is CallSyntax.JSON:
        call = json.dumps({"name": entry["name"], "arguments": arguments}, ensure_ascii=False)
        return f"<tool_call>\n{call}\n</tool_call>"
    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in arguments.items()}
    body = "".join(f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in values.items())
    return f"<tool_call>\n<function={entry['name']}>\n{body}</function>\n</tool_call>"


def call(name: str, **arguments: object) -> str:
    return written({"name": name, "arguments": arguments}, CallSyntax.XML)


def test_there_are_enough_tools() -> None:
    assert len(AGENT_TOOLS) >= 60
    for entry in AGENT_TOOLS.values():
        jsonschema.validate(entry["arguments"], entry["parameters"])


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("name", AGENT_TOOLS)
def test_tools_of_agents_are_followed_or_refused_by_name(demo, name: str, syntax: CallSyntax) -> None:
    entry = AGENT_TOOLS[name]
    refused = entry.get("refused")
    try:
        state = demo.factory.for_tools([tool_of(entry, True)], REQUIRED, format_of(demo, syntax))
    except GrammarError as error:
        assert refused is not None
        assert error.places == (f"tools[0].parameters.{refused}",)
    else:
        assert refused is None or syntax is CallSyntax.JSON
        assert state.warnings == ()
        assert demo.accepts(state, written(entry, syntax))
    state = demo.factory.for_tools([tool_of(entry, False)], REQUIRED, format_of(demo, syntax))
    assert demo.accepts(state, written(entry, syntax))
    assert refused is None or syntax is CallSyntax.JSON or state.warnings


def random_turn(reader, state, seed: int, limit: int = 250) -> list[int] | None:
    """Tokens that a grammar allows, in favour of those that end something; None if it takes too long."""
    rng, ids, tokenizer = random.Random(seed), [], reader.llm.tokenizer
    closers = {one for one in range(tokenizer.vocab_size) if not tokenizer.token_bytes(one).strip(b'"}],\n</parmet> ')}
    while not state.is_finished:
        allowed = reader.allowed(state)
        closing = allowed & closers
        ids.append(rng.choice(sorted(closing if closing and rng.random() < 0.8 else allowed)))
        state = state.advance(ids[-1])
        if len(ids) > limit:
            return None
    return ids


def calls_in(reader, turn_format: TurnFormat, tools: list[Tool], ids: list[int], in_reasoning: bool = False):
    """(name, arguments as text) of each complete call, and all other text."""
    text = TurnText(
        reader.llm.tokenizer,
        turn_format,
        tools,
        starts_in_reasoning=in_reasoning,
        parses_calls=True,
        is_parallel=True,
        make_call_id=lambda: "call_1",
    )
    for token_id in ids:
        text.push(token_id)
    text.flush()
    calls, rest, num_ended = [], "", 0
    for event in coalesced(text.take_events()):
        if isinstance(event, CallStarted):
            calls.append([event.name, ""])
        elif isinstance(event, CallArguments):
            calls[event.index][1] += event.json_text
        elif isinstance(event, CallEnded):
            num_ended += 1
        elif isinstance(event, ContentText | ReasoningText):
            rest += event.text
    assert num_ended == len(calls)
    return calls, rest


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_whatever_is_said_is_a_call_that_satisfies_its_schema(demo, syntax: CallSyntax) -> None:
    tools = [tool_of(entry, True) for entry in AGENT_TOOLS.values() if "refused" not in entry]
    turn_format, num_read = format_of(demo, syntax), 0
    for number, tool in enumerate(tools):
        state = demo.factory.for_tools([tool], REQUIRED, turn_format)
        for seed in range(2):
            ids = random_turn(demo, state, 100 * number + seed)
            if ids is None or re.search(r"\d[eE][+]?\d{3}", demo.llm.tokenizer.decode(ids)):
                continue  # too long, or a number that no float holds
            num_read += 1
            calls, rest = calls_in(demo, turn_format, [tool], ids)
            assert rest == ""
            [[name, arguments]] = calls
            assert name == tool.name
            jsonschema.validate(json.loads(arguments), tool.parameters)
    assert num_read > len(tools) / 2


def test_choices(reader) -> None:
    turn_format, factory = format_of(reader), reader.factory
    assert factory.for_tools([READ], ToolChoice("auto"), turn_format) is None
    assert factory.for_tools([BASH], ToolChoice("none"), turn_format) is None
    assert factory.for_tools([], ToolChoice("auto"), turn_format) is None
    several = factory.for_tools([READ, BASH], ToolChoice("required"), turn_format)
    one, other = call("read", path="a", line=3), call("bash", command="ls")
    for text in (one, other, one + other, one + "\n" + other + one):
        assert reader.accepts(several, text)
    for text in ("", "text", "text" + one, one + "text", call("write", path="a"), one + "\n\n" + other):
        assert not reader.accepts(several, text)
    single = factory.for_tools([READ, BASH], REQUIRED, turn_format)
    assert reader.read(single, other).is_finished
    named = factory.for_tools([READ, BASH], ToolChoice("named", ("read",)), turn_format)
    assert reader.accepts(named, one)
    assert not reader.accepts(named, other)


def test_parameters_are_those_of_the_schema(reader) -> None:
    state = reader.factory.for_tools([BASH, READ], ToolChoice("required"), format_of(reader))
    for text in (call("bash"), call("bash", command="a", x="b"), call("read", line="a"), call("read", line=1.5)):
        assert not reader.accepts(state, text)
    for text in (call("read"), call("read", line=1), call("read", path=""), call("bash", command="</parameter>\n<")):
        assert reader.accepts(state, text)


def test_a_turn_may_call_strict_tools_or_not(reader) -> None:
    state = reader.factory.for_tools([BASH, READ], ToolChoice("auto"), format_of(reader))
    good = call("bash", command="x")
    for text in ("", "just text", good, "text\n" + good, good + " text " + good + "\nmore"):
        assert reader.accepts(state, text), text
    for text in (call("bash"), "text" + call("nothing"), good + call("read", line="x")):
        assert not reader.accepts(state, text), text
    once = reader.factory.for_tools([BASH, READ], ToolChoice("auto", is_parallel=False), format_of(reader))
    assert reader.accepts(once, "text" + good)


def test_a_turn_may_follow_a_format_instead_of_calling(reader) -> None:
    answer = JsonSchema({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False})
    state = reader.factory.for_tools([READ], ToolChoice("auto"), format_of(reader), output_format=answer)
    for text in ('{"a": 3}', call("read", path="x")):
        assert reader.accepts(state, text)
    for text in ("x", '{"a": "b"}', '{"a": 3}' + call("read")):
        assert not reader.accepts(state, text)
    none = reader.factory.for_tools([READ], ToolChoice("none"), format_of(reader), output_format=answer)
    assert reader.accepts(none, '{"a": 3}')
    assert not reader.accepts(none, call("read"))


@pytest.mark.parametrize("has_tokens", [True, False])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_reasoning_comes_first(demo, has_tokens: bool, syntax: CallSyntax) -> None:
    """Whether the marks are tokens of the vocabulary, or text."""
    turn_format = format_of(demo, syntax)
    if not has_tokens:
        turn_format = TurnFormat(syntax, True, *(Mark(f"[{name}]") for name in ("think", "/think", "call", "/call")))
    close, opened, closed = turn_format.think_close.text, turn_format.call_open.text, turn_format.call_close.text
    state = demo.factory.for_tools([BASH], ToolChoice("required"), turn_format, in_reasoning=True)
    good = written({"name": "bash", "arguments": {"command": "ls"}}, syntax)
    good = good.replace("<tool_call>", opened).replace("</tool_call>", closed)
    assert demo.accepts(state, f"What {{now}}? <function=bash>\n{close}\n{good}")
    for text in (good, f"{close}{good}", f"a{close}\n", f"a{close}\nb{good}"):
        assert not demo.accepts(state, text)
    assert demo.accepts(demo.factory.for_output(JsonSchema(True), close), f"hm{close}\n[1]")


def test_arguments_of_tools_that_say_nothing_about_them(reader) -> None:
    state = reader.factory.for_tools([Tool("now", "", {"type": "object"})], REQUIRED, format_of(reader))
    assert reader.accepts(state, call("now"))
    assert reader.accepts(state, call("now", zone="UTC", n=3))
    closed = Tool("now", "", {"type": "object", "additionalProperties": False})
    state = reader.factory.for_tools([closed], REQUIRED, format_of(reader))
    assert reader.accepts(state, call("now"))
    assert not reader.accepts(state, call("now", zone="UTC"))


TEXTS = {
    "free": ({"type": "string"}, ["", "a", "\n", "a\nb ", "</function>", "{", "ü\t"], ["a\n</parameter>\nb"]),
    "enum": ({"enum": ["fast", "slow", 3, None]}, ["fast", "3", "null"], ["quick", '"fast"', "4"]),
    "choices": ({"anyOf": [{"const": "a"}, {"enum": ["b", "c"]}]}, ["a", "c"], ["d", ""]),
    "length": ({"type": "string", "minLength": 1, "maxLength": 3}, ["a", "äöü"], ["", "abcd"]),
    "anchored": ({"type": "string", "pattern": "^[a-z]+\\.py$"}, ["a.py"], ["a.pyc", "A.py", "apy"]),
    "searched": ({"type": "string", "pattern": "b{2}"}, ["abba", "bb"], ["ab"]),
    "both": ({"type": "string", "pattern": "^a", "maxLength": 2}, ["a", "ab"], ["abc", "b"]),
    "group": ({"type": "string", "pattern": "^(a|b/c)$"}, ["a", "b/c"], ["b", "ab"]),
    "or null": ({"type": ["string", "null"]}, ["null", "text", "[1"], []),
    "or list": (
        {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]},
        ["x", "[1, 2]"],
        ["[x]"],
    ),
    "or object": ({"type": ["string", "object"], "additionalProperties": False}, ["x", "{}", ""], ['{"a": 1}', " {"]),
    "bool": ({"type": "boolean"}, ["true", "false"], ["True", "yes", '"true"']),
    "reference": ({"$ref": "#/$defs/kind"}, ["x1", "y"], ["z"]),
    "any": (True, ["text", "[1"], []),
}


@pytest.mark.parametrize("name", TEXTS)
def test_values_between_tags(demo, name: str) -> None:
    schema, good, bad = TEXTS[name]
    parameters = {
        "type": "object",
        "properties": {"value": schema},
        "required": ["value"],
        "$defs": {"kind": {"enum": ["x1", "y"]}},
    }
    state = demo.factory.for_tools([Tool("f", "", parameters, True)], REQUIRED, format_of(demo))
    for value in good:
        assert demo.accepts(state, call("f", value=value)), value
    for value in bad:
        assert not demo.accepts(state, call("f", value=value)), value
    assert argument_types(parameters)  # what the reader of calls goes by


BROKEN = {
    "alternatives": ({"type": "string", "pattern": "^a|b$"}, "properties.p.pattern"),
    "nested": ({"type": "string", "anyOf": [{"minLength": 3}, {"pattern": "x"}]}, "properties.p.anyOf"),
    "end tag": ({"enum": ["a\n</parameter>"]}, "properties.p.enum"),
    "look ahead": ({"type": "string", "pattern": "(?!a)b"}, "properties.p"),
    "number": ({"type": "integer", "minimum": 5, "maximum": 1}, "properties.p"),
    "type": ({"type": "text"}, "properties.p.type"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_enforced_in_a_call(demo, name: str) -> None:
    schema, place = BROKEN[name]
    parameters = {"type": "object", "properties": {"p": schema, "q": {"type": "integer"}}}
    with pytest.raises(GrammarError) as caught:
        demo.factory.for_tools([BASH, Tool("f", "", parameters, True)], REQUIRED, format_of(demo))
    assert caught.value.places == (f"tools[1].parameters.{place}",)
    state = demo.factory.for_tools([BASH, Tool("f", "", parameters)], REQUIRED, format_of(demo))
    assert len(state.warnings) == 1
    assert state.warnings[0].startswith("tools[1].parameters: not enforced")
    assert demo.accepts(state, call("f", q=3))
    assert not demo.accepts(state, call("f", q="x"))


def test_tools_that_cannot_be_called(demo) -> None:
    turn_format, factory = format_of(demo), demo.factory
    for tools, choice, message in (
        ([], ToolChoice("required"), "no tools"),
        ([READ], ToolChoice("named", ("write",)), "names a tool that is not"),
        ([READ], ToolChoice("named"), "names no tool"),
        ([Tool("a>b")], REQUIRED, "cannot stand in a call"),
        ([Tool("")], REQUIRED, "cannot stand in a call"),
        ([Tool("\ud800")], REQUIRED, "cannot stand in a call"),
    ):
        with pytest.raises(GrammarError, match=message):
            factory.for_tools(tools, choice, turn_format)
    silent = format_of(demo, CallSyntax.NONE)
    with pytest.raises(GrammarError, match="writes no calls"):
        factory.for_tools([READ], REQUIRED, silent)
    assert factory.for_tools([BASH], ToolChoice("auto"), silent) is None
    state = factory.for_tools([BASH], ToolChoice("auto"), silent, output_format=JsonSchema({"enum": [1]}))
    assert demo.accepts(state, "1")
