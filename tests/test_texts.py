"""The built-in texts: enough of each kind, of the promised size, and edits that are edits."""

import ast
import difflib

import pytest

from stepahead import LLM, ConfigError
from stepahead.texts import KINDS, load

FENCE = "```python\n"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_three_prompts(kind):
    texts = load(kind)
    assert len(texts) == len({text.prompt for text in texts}) == 3
    for text in texts:
        assert text.kind == kind
        assert (text.continuation is not None) == (kind == "edit")
        assert "\r" not in text.prompt
        low, high = (1500, 2500) if kind == "edit" else (300, 1200)
        assert low <= len(text.prompt) <= high


def test_an_edit_is_the_file_of_its_prompt_with_a_few_lines_changed():
    for text in load("edit"):
        original = text.prompt.split(FENCE)[1].partition("```")[0]
        edited, fence, rest = text.continuation.partition("```")
        assert (fence, rest) == ("```", "\n")
        assert text.prompt.endswith(FENCE)
        ast.parse(original)
        ast.parse(edited)
        assert 0.8 < difflib.SequenceMatcher(None, original.splitlines(), edited.splitlines()).ratio() < 1


def test_an_edit_fits_the_context_of_the_demo_model():
    with LLM.demo(threads=1) as llm:
        for text in load("edit"):
            assert len(llm.tokenize(text.prompt)) + len(llm.tokenize(text.continuation)) < llm.config.context_length


def test_another_kind_is_refused():
    with pytest.raises(ConfigError, match=r"'poem'.*code, edit"):
        load("poem")
