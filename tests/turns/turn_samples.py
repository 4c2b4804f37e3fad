"""What the tests of this folder share: a vocabulary, tools, templates, a corpus of turns, and ways to parse them."""

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass

from stepahead.tokenizer import Tokenizer
from stepahead.tokenizer.vocabulary import BYTE_OF_CHAR
from stepahead.turns.call_parser import TurnParser
from stepahead.turns.event import CallArguments, CallEnded, CallStarted, ContentText, ReasoningText
from stepahead.turns.tool import Tool
from stepahead.turns.turn_format import CallSyntax, Mark, TurnFormat
from stepahead.turns.turn_text import TurnText, coalesced

MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
CONTROL, USER_DEFINED = 3, 4


def make_tokenizer(mark_type=None, extra=None):
    """256 byte tokens (id = byte), <|im_end|> as 256, the four marks from 257 on if they are tokens, and `extra`."""
    chars = {byte: char for char, byte in BYTE_OF_CHAR.items()}
    marks = [*(MARKS if mark_type else ()), *([extra] if extra else ())]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "deepseek-v3",
        "tokenizer.ggml.tokens": [chars[byte] for byte in range(256)] + ["<|im_end|>", *marks],
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.token_type": [1] * 256 + [CONTROL] + [mark_type or USER_DEFINED] * len(marks),
        "tokenizer.ggml.eos_token_id": 256,
        "tokenizer.ggml.add_bos_token": False,
    }
    return Tokenizer.from_metadata(metadata)


PLAIN, CONTROLS, DEFINED = make_tokenizer(), make_tokenizer(CONTROL), make_tokenizer(USER_DEFINED)

STEP = TurnFormat()
QWEN = TurnFormat(CallSyntax.XML, has_reasoning=False, newlines_before_call=1)
HERMES = TurnFormat(CallSyntax.JSON, newlines_after_reasoning=2, newlines_before_call=1)


def with_tokens(turn_format, tokenizer=CONTROLS):
    """The same format for a vocabulary that has the marks."""
    marks = [Mark.of(text, tokenizer) for text in MARKS]
    return TurnFormat(
        turn_format.calls,
        turn_format.has_reasoning,
        *marks,
        turn_format.newlines_after_reasoning,
        turn_format.newlines_before_call,
    )


PARAMETERS = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "text": {"type": "string"},
        "line": {"type": "integer"},
        "ratio": {"type": "number"},
        "force": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "options": {"type": "object"},
        "either": {"type": ["string", "integer"]},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "untyped": {"description": "anything"},
    },
}
TOOLS = (Tool("write", "Writes.", PARAMETERS), Tool("write_all", "", PARAMETERS), Tool("now"))
TOOLS_BY_NAME = {tool.name: tool for tool in TOOLS}


def xml(name, *parameters, end="</function>\n</tool_call>"):
    """A call as the templates write it; parameters as (name, text)."""
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters)
    return f"<tool_call>\n<function={name}>\n{inner}{end}"


def hermes(text):
    return f"<tool_call>\n{text}\n</tool_call>"


def parser_of(turn_format=STEP, tools=TOOLS_BY_NAME, in_reasoning=False, buffers=False):
    ids = itertools.count()
    return TurnParser(
        turn_format,
        tools,
        starts_in_reasoning=in_reasoning,
        make_call_id=lambda: f"call_{next(ids)}",
        buffers_calls=buffers,
    )


def parse(pieces, turn_format=STEP, **options):
    """All events of a turn given in pieces, coalesced."""
    parser = parser_of(turn_format, **options)
    events = [event for piece in ([pieces] if isinstance(pieces, str) else pieces) for event in parser.push(piece)]
    return coalesced([*events, *parser.finish()])


def turn_text(tokenizer=CONTROLS, turn_format=None, **options):
    ids = itertools.count()
    defaults = {
        "tools": TOOLS,
        "starts_in_reasoning": False,
        "parses_calls": True,
        "is_parallel": True,
        "make_call_id": lambda: f"call_{next(ids)}",
    }
    return TurnText(tokenizer, turn_format or with_tokens(STEP, tokenizer), **(defaults | options))


@dataclass(frozen=True)
class Call:
    """A call as a client sees it."""

    name: str
    json_text: str
    is_complete: bool

    @property
    def arguments(self):
        return json.loads(self.json_text)


@dataclass(frozen=True)
class Turn:
    """What a client makes of the events."""

    reasoning: str
    content: str
    calls: tuple[Call, ...]


def gathered(events: Iterable) -> Turn:
    """A turn of events; asserts what holds for every sequence of events."""
    reasoning, content, calls, ids = "", "", [], set()
    for event in events:
        match event:
            case ReasoningText(text):
                assert text and not content and not calls
                reasoning += text
            case ContentText(text):
                assert text
                content += text
            case CallStarted(index, call_id, name):
                assert index == len(calls) and call_id not in ids and name in TOOLS_BY_NAME
                ids.add(call_id)
                calls.append([name, "", False])
            case CallArguments(index, json_text):
                assert index == len(calls) - 1 and json_text and not calls[-1][2]
                calls[-1][1] += json_text
            case CallEnded(index):
                assert index == len(calls) - 1 and not calls[-1][2]
                arguments = json.loads(calls[-1][1])
                assert isinstance(arguments, dict)
                json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()  # for any other program
                calls[-1][2] = True
    return Turn(reasoning, content, tuple(Call(*call) for call in calls))


def turn_of(text, turn_format=STEP, **options):
    return gathered(parse(text, turn_format, **options))


XML_CALLS = {
    "no parameters": xml("now"),
    "one string": xml("write", ("path", "a.py")),
    "all types": xml(
        "write", ("path", "a"), ("line", "3"), ("ratio", "0.5"), ("force", "true"), ("tags", '["x", "y"]'),
        ("options", '{"a": {"b": [1, null]}}'), ("either", "7"), ("maybe", "null"), ("untyped", "[1]"),
    ),
    "wrong types": xml("write", ("line", "three"), ("ratio", ""), ("force", "maybe"), ("tags", "x, y")),
    "python booleans": xml("write", ("force", "True")),
    "huge number": xml("write", ("line", "9" * 30), ("ratio", "1e999")),
    "float for integer": xml("write", ("line", "3.0")),
    "nan": xml("write", ("ratio", "NaN")),
    "unknown parameter": xml("write", ("colour", "3")),
    "empty value": xml("write", ("path", ""), ("line", "1")),
    "value of newlines": xml("write", ("text", "\n\n\n")),
    "value of spaces": xml("write", ("text", "  indented\n  more  ")),
    "quotes and backslashes": xml("write", ("text", 'say "hi" \\ \\n \t \x07')),
    "unicode": xml("write", ("text", "Köln 日本 🙂 \u2028 \u00a0")),
    "xml within": xml("write", ("text", "<a href='x'>&amp; & </a><parameter=b>\n1")),
    "</function> in a value": xml("write", ("text", "a\n</function>\nb </function>")),
    "</parameter> within a line": xml("write", ("text", "a </parameter> b</parameter>")),
    "almost the end": xml("write", ("text", "a\n</paramete\n</parameter\n </parameter>\n<")),
    "almost the whole end": xml("write", ("text", "a\n</function>\n</tool_cal")),
    "a call quoted": xml("write", ("text", "use <tool_call> and </tool_call>")),
    "marks of reasoning": xml("write", ("text", "<think> or </think>\n</think>")),
    "duplicate": xml("write", ("path", "first"), ("path", "second"), ("line", "1")),
    "duplicate of a number": xml("write", ("line", "1"), ("line", "2")),
    "inline values": "<tool_call><function=write><parameter=path>a</parameter><parameter=line>3</parameter>"
    "</function></tool_call>",
    "inline with newline": "<tool_call>\n<function=write><parameter=text>a\nb\n</parameter></function>\n</tool_call>",
    "empty on one line": "<tool_call>\n<function=write>\n<parameter=path>\n</parameter>\n</function>\n</tool_call>",
    "inline empty": "<tool_call>\n<function=write>\n<parameter=path></parameter>\n</function>\n</tool_call>",
    "no </parameter>": "<tool_call>\n<function=write>\n<parameter=text>\nabc\n</function>\n</tool_call>",
    "no value and no </parameter>": "<tool_call>\n<function=write>\n<parameter=line>\n</function>\n</tool_call>",
    "no </parameter>, inline": "<tool_call>\n<function=write>\n<parameter=text>abc\n</function>\n</tool_call>",
    "no </function>": "<tool_call>\n<function=write>\n<parameter=line>\n1\n</parameter>\n</tool_call>",
    "no </tool_call>": xml("write", ("line", "1"), end="</function>"),
    "no </tool_call> but text": xml("write", ("line", "1"), end="</function>\nDone."),
    "two </parameter>": xml("write", ("path", "a"), end="</parameter>\n</function>\n</tool_call>"),
    "much white space": "<tool_call> \n\n <function=write>\n\n\n<parameter=path>\na\n</parameter>\n\n\n\n</function> \n"
    "</tool_call>",
    "unknown name": xml("delete", ("path", "a")),
    "beginning of a name": xml("writ", ("path", "a")),
    "longer than a name": xml("write_al", ("path", "a")),
    "no name": xml("", ("path", "a")),
    "name with a space": xml("write ", ("path", "a")),
    "longer name": xml("write_all", ("path", "a")),
    "json within": hermes('{"name": "write", "arguments": {"path": "a"}}'),
    "not even a function": "<tool_call>\nwrite(path='a')\n</tool_call>",
    "call in a call": f"<tool_call>\n{xml('write', ('path', 'a'))}",
    "spaces without end": f"<tool_call>{' ' * 80}{xml('now')}",
    "garbage between parameters": xml("write", ("path", "a"), end="oops\n</function>\n</tool_call>"),
    "garbage after the name": "<tool_call>\n<function=write>\noops</function>\n</tool_call>",
    "garbage, then a call": xml("write", end=f"?{xml('now')}"),
    "newline in a parameter's name": xml("write", ("pa\nth", "a")),
    "endless parameter's name": xml("write", ("p" * 300, "a")),
    "cut in the mark": "<tool_ca",
    "cut before the name": "<tool_call>\n<funct",
    "cut in the name": "<tool_call>\n<function=wri",
    "cut after the name": "<tool_call>\n<function=write>\n",
    "cut in a string": "<tool_call>\n<function=write>\n<parameter=text>\nabc",
    "cut in a number": "<tool_call>\n<function=write>\n<parameter=line>\n12",
    "cut in </parameter>": "<tool_call>\n<function=write>\n<parameter=text>\nabc\n</param",
    "cut after a parameter": xml("write", ("path", "a"), end=""),
    "cut in </function>": xml("write", ("path", "a"), end="</func"),
    "cut after </function>": xml("write", ("path", "a"), end="</function>\n"),
    "two": xml("write", ("path", "a")) + xml("write", ("path", "b")),
    "three, with newlines": f"{xml('now')}\n{xml('write', ('line', '1'))}\n\n{xml('now')}\n",
    "text between": f"{xml('now')}\nand then\n{xml('now')}",
    "text after": f"{xml('now')}\n\nDone.\n",
    "good, then unknown": xml("now") + xml("nobody"),
    "unknown, then good": xml("nobody") + xml("now"),
    "good, then cut": xml("now") + "<tool_call>\n<function=write>\n<parameter=path>\nab",
}  # fmt: skip

JSON_CALLS = {
    "plain": hermes('{"name": "write", "arguments": {"path": "a.py", "line": 3}}'),
    "no arguments": hermes('{"name": "now", "arguments": {}}'),
    "parameters": hermes('{"name": "write", "parameters": {"path": "a"}}'),
    "arguments left out": hermes('{"name": "now"}'),
    "arguments null": hermes('{"name": "now", "arguments": null}'),
    "arguments first": hermes('{"arguments": {"path": "a"}, "name": "write"}'),
    "arguments as text": hermes('{"name": "write", "arguments": "{\\"path\\": \\"a\\"}"}'),
    "another key first": hermes('{"id": 1, "name": "write", "arguments": {"path": "a"}}'),
    "another key last": hermes('{"name": "write", "arguments": {"path": "a"}, "id": 1}'),
    "nested": hermes('{"name": "write", "arguments": {"options": {"a": [1, {"b": [[], {}]}, "x"]}, "tags": []}}'),
    "all scalars": hermes('{"name": "write", "arguments": {"a": [1, -2.5e3, 0.1E+2, true, false, null, 0]}}'),
    "escapes": hermes('{"name": "write", "arguments": {"text": "\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00"}}'),
    "lone backslash": hermes('{"name": "write", "arguments": {"text": "\\d+ \\u12 \\q"}}'),
    "raw newline": hermes('{"name": "write", "arguments": {"text": "a\nb\tc"}}'),
    "closing mark in a string": hermes('{"name": "write", "arguments": {"text": "</tool_call>"}}'),
    "trailing comma": hermes('{"name": "write", "arguments": {"tags": ["a",], "line": 1,}}'),
    "python constants": hermes('{"name": "write", "arguments": {"force": True, "maybe": None}}'),
    "single quotes": hermes("{'name': 'write', 'arguments': {}}"),
    "compact": '<tool_call>{"name":"write","arguments":{"path":"a"}}</tool_call>',
    "spread": hermes('\n{\n  "name" : "write" ,\n  "arguments" :\n  {\n    "path" : "a"\n  }\n}\n'),
    "unknown name": hermes('{"name": "delete", "arguments": {}}'),
    "unknown name, arguments first": hermes('{"arguments": {}, "name": "delete"}'),
    "no json": hermes("write(1)"),
    "broken early": hermes('{"name": "write", "arguments": {"path" "a"}}'),
    "broken late": hermes('{"name": "write", "arguments": {"path": "a", "line": 3x}}'),
    "broken in depth": hermes('{"name": "write", "arguments": {"options": {"a": [1, 2 3]}}}'),
    "broken whole": hermes('{"arguments": {"path" "a"}, "name": "write"}'),
    "one brace short": hermes('{"name": "write", "arguments": {"path": "a"}'),
    "one brace more": hermes('{"name": "write", "arguments": {"path": "a"}}}'),
    "infinite": hermes('{"name": "write", "arguments": {"ratio": Infinity}}'),
    "whole with infinity": hermes('{"arguments": {"ratio": 1e999}, "name": "write"}'),
    "deep": hermes('{"name": "write", "arguments": {"options": ' + "[" * 120 + "]" * 120 + "}}"),
    "long header": "<tool_call>{" + " " * 300 + '"name": "write", "arguments": {}}</tool_call>',
    "unicode": hermes('{"name": "write", "arguments": {"text": "日本 🙂"}}'),
    "cut in the header": '<tool_call>\n{"name": "wri',
    "cut in a string": '<tool_call>\n{"name": "write", "arguments": {"text": "ab\\u00',
    "cut in a number": '<tool_call>\n{"name": "write", "arguments": {"line": 12',
    "cut in a whole": '<tool_call>\n{"arguments": {"line": 12',
    "cut before the mark": '<tool_call>\n{"name": "now", "arguments": {}}\n',
    "two": hermes('{"name": "now", "arguments": {}}') + "\n" + hermes('{"name": "now", "arguments": {}}'),
    "text between": hermes('{"name": "now", "arguments": {}}') + " so " + hermes('{"name": "now", "arguments": {}}'),
}  # fmt: skip

REASONINGS = (
    "",
    "because",
    "two\n\nlines\n",
    "quotes </thin",
    "as in <tool_call>\n<function=now>",
    "日本 🙂 é\n\n",
)
CONTENTS = ("", "Let me look.", "a < b && c > <d>\n", "<tool_call", "1\n\n2\n\n", "`</function>`\n", "  \n")


def _corpus():
    """(name, format, whether the prompt opened the reasoning, text) of each turn."""
    for number, (name, calls) in enumerate(XML_CALLS.items()):
        content = CONTENTS[number % len(CONTENTS)]
        reasoning = REASONINGS[number % len(REASONINGS)]
        yield f"step: {name}", STEP, True, f"{reasoning}\n</think>\n{content}{calls}"
        if number % 3 == 0:
            yield f"qwen: {name}", QWEN, False, f"{content}\n{calls}"
    for number, (name, calls) in enumerate(JSON_CALLS.items()):
        reasoning = REASONINGS[number % len(REASONINGS)]
        yield f"hermes: {name}", HERMES, False, f"<think>\n{reasoning}\n</think>\n\n{CONTENTS[number % 7]}\n{calls}"
    for number, content in enumerate(CONTENTS):
        yield f"content {number}", STEP, False, content
        yield f"reasoning alone {number}", STEP, True, REASONINGS[number % len(REASONINGS)]
        yield f"two ends {number}", STEP, True, f"a\n</think>\n{content}\n</think>\n<think>\nb"
        yield f"begins twice {number}", STEP, True, f"<think>\na</think>{content}"


CORPUS = list(_corpus())
