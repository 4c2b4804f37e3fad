"""Tools whose only argument follows a grammar of their own, as Codex's apply_patch."""

import json
import random
from pathlib import Path

import pytest

pytest.importorskip("llguidance", reason="grammars need llguidance: pip install 'stepahead[server]'")

from test_tools import BASH, REQUIRED, call, calls_in, format_of, written

from stepahead.grammar import GrammarError
from stepahead.grammar.own_text import own_text
from stepahead.turns.output_format import GrammarText
from stepahead.turns.tool import Tool, ToolChoice
from stepahead.turns.turn_format import CallSyntax

APPLY_PATCH = (Path(__file__).parents[1] / "data" / "agents" / "apply_patch.lark").read_text(encoding="utf-8")
INPUT = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
END = "</parameter>"


def custom(text: str, syntax: str = "lark") -> Tool:
    return Tool("apply_patch", "", INPUT, True, GrammarText(syntax, text), "tools[7]")


def patch(*lines: str) -> str:
    return "\n".join(["*** Begin Patch", *lines, "*** End Patch"])


GOOD = {
    "added": patch("*** Add File: src/a b.py", "+import os", "+", "+# </parameter>"),
    "deleted": patch("*** Delete File: a.py"),
    "moved": patch("*** Update File: a.py", "*** Move to: b/c.py"),
    "changed": patch(
        "*** Update File: a.py", "@@ def f(x):", " def f(x):", "-    return 1", "+    return {2}", "@@", "+é"
    ),
    "at the end": patch("*** Update File: a.py", "+last", "*** End of File"),
    "several": patch("*** Delete File: a", "*** Add File: b", "+x", "*** Update File: c", "- y", "*** Delete File: d"),
    "newline after it": patch("*** Delete File: a.py") + "\n",
    "looks like a call": patch("*** Add File: a", "+<parameter=b>", "+</function>", "+ </parameter>"),
}
BAD = {
    "nothing": "",
    "no beginning": patch("*** Delete File: a")[3:],
    "no file": patch(),
    "a bare line": patch("*** Add File: a", "import os"),
    "no name": patch("*** Delete File: "),
    "added, not changed": patch("*** Add File: a", "-x"),
    "text after it": patch("*** Delete File: a") + "\nDone.",
    "not ended": "*** Begin Patch\n*** Delete File: a\n",
    "in a fence": f"```\n{patch('*** Delete File: a')}\n```",
}


@pytest.mark.parametrize("name", GOOD)
def test_patches(reader, name: str) -> None:
    state = reader.factory.for_tools([custom(APPLY_PATCH), BASH], REQUIRED, format_of(reader))
    assert state.warnings == ()
    text = call("apply_patch", input=GOOD[name])
    assert reader.accepts(state, text)
    calls, rest = calls_in(reader, format_of(reader), [custom(APPLY_PATCH), BASH], reader.ids(text))
    assert rest == ""
    assert calls == [["apply_patch", written_json(GOOD[name])]]


def written_json(text: str) -> str:
    from stepahead.turns.plain_json import json_string

    return f'{{"input":{json_string(text)}}}'


@pytest.mark.parametrize("name", BAD)
def test_no_patches(reader, name: str) -> None:
    state = reader.factory.for_tools([custom(APPLY_PATCH)], REQUIRED, format_of(reader))
    assert not reader.accepts(state, call("apply_patch", input=BAD[name]))


def test_it_may_be_called_or_not(demo) -> None:
    state = demo.factory.for_tools([BASH, custom(APPLY_PATCH)], ToolChoice("auto"), format_of(demo), in_reasoning=True)
    good = call("apply_patch", input=GOOD["changed"])
    for text in ("Hm.</think>\nDone.", f"a\n</think>\nSo:{good}{call('bash', command='ls')}{good}"):
        assert demo.accepts(state, text)
    assert not demo.accepts(state, f"a\n</think>\n{call('apply_patch', input=BAD['no file'])}")


def test_whatever_is_said_ends_where_the_grammar_does(demo) -> None:
    """A grammar of any lines: a line that would be taken for the tag cannot be said."""
    tool, turn_format = custom("start: (/.*/ LF)+\nLF: /\\n/"), format_of(demo)
    state = demo.factory.for_tools([tool], REQUIRED, turn_format)
    assert state.warnings == ()
    assert demo.accepts(state, call("apply_patch", input="a </parameter>\n\n"))
    for value in ("a", f"a\n{END}\n", f"{END}\n"):
        assert not demo.accepts(state, call("apply_patch", input=value)), value
    num_read = 0
    close = demo.ids(f"\n\n{END}\n</function>\n</tool_call>")
    for seed in range(40):
        rng, ids = (
            random.Random(seed),
            demo.ids(call("apply_patch", input="")[: -len(f"\n{END}\n</function>\n</tool_call>")]),
        )
        for _ in range(rng.randrange(30)):
            allowed = demo.allowed(demo.read(state, ids))
            likely = [one for one in close if one in allowed]
            ids.append(rng.choice(likely if likely and rng.random() < 0.6 else sorted(allowed)))
        if demo.read(state, [*ids, *close]) is None:
            continue
        num_read += 1
        calls, rest = calls_in(demo, turn_format, [tool], [*ids, *close])
        assert (len(calls), rest) == (1, "")
        assert json.loads(calls[0][1])["input"].endswith("\n")
    assert num_read > 3


MANY_LINES = {
    "any text": "start: /(.|\\n)*/",
    "of a terminal": 'start: TEXT\nTEXT: (/[^a]/ | "a")+',
    "of rules": 'start: (LONG | "x")*\nLONG: "<" LF "a"\nLF: /\\n/',
    "the tag itself": 'start: "</parameter>" LF\nLF: /\\n/',
    "the tag, escaped": "start: /a<\\/parameter>/",
}


@pytest.mark.parametrize("name", MANY_LINES)
def test_terminals_of_many_lines_are_not_followed(demo, name: str) -> None:
    """A call would never end: the text that ends it is a text of the terminal, too."""
    state = demo.factory.for_tools([custom(MANY_LINES[name])], REQUIRED, format_of(demo))
    (warning,) = state.warnings
    assert warning.startswith("tools[7].format: not enforced")
    assert demo.accepts(state, call("apply_patch", input="one\ntwo </parameter>\n<a>"))


def test_lines_of_rules_are_followed(demo) -> None:
    state = demo.factory.for_tools([custom('start: (/[a-z <>\\/]/ | "\\n")*')], REQUIRED, format_of(demo))
    assert state.warnings == ()
    assert demo.accepts(state, call("apply_patch", input="one\ntwo </parameter>"))
    assert not demo.accepts(state, call("apply_patch", input="one\nTwo"))


def test_a_regular_expression(demo) -> None:
    tool = custom(r"(\d+[/-])+\n?x", "regex")
    for syntax in CallSyntax.XML, CallSyntax.JSON:
        state = demo.factory.for_tools([tool], REQUIRED, format_of(demo, syntax))
        assert state.warnings == ()
        for value, is_good in (("1/22-x", True), ("1/\nx", True), ("x", False), ("1/x ", False), ("a1/x", False)):
            text = written({"name": "apply_patch", "arguments": {"input": value}}, syntax)
            assert demo.accepts(state, text) == is_good, (syntax, value)


@pytest.mark.parametrize(
    ("text", "syntax", "why"),
    [
        ('start: "a" LF', "lark", "LF"),
        ("start: (", "lark", None),
        ("", "lark", None),
        ("start: A\nA[max_tokens=3]: /a/", "lark", "max_tokens"),
        ("(", "regex", None),
        ("(?=a)b", "regex", None),
        ('start: "a" "b"' * 50_000, "lark", "bytes"),
        ("start: " + "(" * 100 + '"a"' + ")" * 100, "lark", "nested"),
    ],
)
@pytest.mark.parametrize("syntax_of_calls", [CallSyntax.XML, CallSyntax.JSON])
def test_grammars_that_cannot_be_used(
    demo, text: str, syntax: str, why: str | None, syntax_of_calls: CallSyntax
) -> None:
    with pytest.raises(GrammarError, match=why) as caught:
        demo.factory.for_tools([BASH, custom(text, syntax)], ToolChoice("auto"), format_of(demo, syntax_of_calls))
    assert caught.value.places == ("tools[7].format.definition",)
    assert str(caught.value).startswith("tools[7].format.definition: ")


def test_what_is_not_followed_is_told(demo) -> None:
    state = demo.factory.for_tools([custom(APPLY_PATCH)], REQUIRED, format_of(demo, CallSyntax.JSON))
    (warning,) = state.warnings
    assert warning.startswith("tools[7].format: not enforced")
    assert demo.accepts(state, written({"name": "apply_patch", "arguments": {"input": "any\ntext"}}, CallSyntax.JSON))


def test_texts_without_the_tag() -> None:
    """Strings, comments and names of rules stay; regular expressions of rules become terminals."""
    rules = 'start: "a / b" /x+/ name // a /comment/\nname: /x+/ | "<b>"\n'
    cut = own_text(f'{rules}WORD: /y/\n | "z"\n%import common.LF\n').lark
    assert 'start: "a / b" OWN_TEXT_0 name' in cut
    assert 'name: OWN_TEXT_0 | "<b>"' in cut
    assert "comment" not in cut
    assert cut.count("OWN_TEXT_0:") == 1
    assert 'WORD: ( /y/  | "z" ) & ~/' in cut
    assert "%import common.LF\n" in cut
