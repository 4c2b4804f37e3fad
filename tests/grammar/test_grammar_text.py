"""Grammars that callers write, in three syntaxes."""

import pytest

pytest.importorskip("llguidance", reason="grammars need llguidance: pip install 'stepahead[server]'")

from stepahead.grammar import GrammarError
from stepahead.turns.output_format import GrammarText

LARK = 'start: "(" value ")"\nvalue: NUMBER | "x" | start\nNUMBER: /[0-9]+/'
GBNF = """root ::= "(" value ")" # a comment
value ::= number | "x" | root
number ::= [0-9]+
"""


@pytest.mark.parametrize(("syntax", "text"), [("lark", LARK), ("gbnf", GBNF)])
def test_grammars(demo, syntax: str, text: str) -> None:
    for reasoning_end in (None, demo.llm.tokenizer.id_of("</think>")):
        state = demo.factory.for_output(GrammarText(syntax, text), reasoning_end)
        before = "" if reasoning_end is None else "hm</think>\n"
        for good in ("(12)", "(x)", "(((7)))"):
            assert demo.accepts(state, before + good)
        for bad in ("12", "(12", "(y)", "(12))"):
            assert not demo.accepts(state, before + bad)


@pytest.mark.parametrize("pattern", ["a/b", "[0-9]{3}-[0-9]{2}", "(?i:yes|no)", "\\d+\\.\\d*", "ü+\n?", '"x"'])
def test_patterns_match_the_whole_text(reader, pattern: str) -> None:
    examples = {
        "a/b": "a/b",
        "[0-9]{3}-[0-9]{2}": "123-45",
        "(?i:yes|no)": "No",
        "\\d+\\.\\d*": "3.",
        "ü+\n?": "üü",
        '"x"': '"x"',
    }
    state = reader.factory.for_output(GrammarText("regex", pattern))
    assert reader.accepts(state, examples[pattern])
    assert not reader.accepts(state, "z" + examples[pattern])
    state = reader.factory.for_output(GrammarText("regex", pattern), reader.llm.tokenizer.id_of("</think>"))
    assert reader.accepts(state, "hm</think>\n" + examples[pattern])


WRONG = {
    "lark syntax": ("lark", 'start: "a'),
    "no start": ("lark", 'x: "a"'),
    "unknown rule": ("lark", "start: y"),
    "unknown token": ("lark", "start: <|nothing|>"),
    "token beyond": ("lark", "start: <[99999999]>"),
    "hides tokens": ("lark", 'start: a "b"\na[max_tokens=3]: /a*/'),
    "takes text back": ("lark", 'start: a "b"\na[lazy, stop="b"]: /a*/'),
    "temperature": ("lark", "start: a\na[temperature=0.5]: /a*/"),
    "endless": ("lark", "start: a\na: b\nb: a"),
    "empty": ("lark", ""),
    "gbnf syntax": ("gbnf", "root ::= ("),
    "no root": ("gbnf", 'x ::= "a"'),
    "gbnf rule": ("gbnf", "root ::= y"),
    "empty gbnf": ("gbnf", ""),
    "regex": ("regex", "("),
    "look ahead": ("regex", "(?=a)b"),
    "back reference": ("regex", "(a)\\1"),
    "other grammar": ("lark", "start: @other"),
    "itself": ("lark", "start: @content"),
    "surrogate": ("lark", 'start: "\ud800"'),
    "nul": ("regex", "\ud800"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_grammars_are_refused(demo, name: str) -> None:
    syntax, text = WRONG[name]
    for reasoning_end in (None, demo.llm.tokenizer.id_of("</think>")):
        with pytest.raises(GrammarError) as caught:
            demo.factory.for_output(GrammarText(syntax, text), reasoning_end)
        message = str(caught.value)
        assert 10 < len(message) < 400
        assert "\n" not in message


def test_errors_tell_the_line(demo) -> None:
    with pytest.raises(GrammarError, match="3"):
        demo.factory.for_output(GrammarText("lark", 'start: a\na: "x"\nb: ???\n'))


def test_a_text_of_a_list_of_grammars_is_a_grammar_like_any_other(demo) -> None:
    """What begins like JSON is still Lark: nobody reaches llguidance's own options."""
    with pytest.raises(GrammarError):
        demo.factory.for_output(
            GrammarText("lark", '{"grammars": [{"lark_grammar": "start: \\"a\\""}], "max_tokens": 3}')
        )
