"""Marks: what clients write never becomes a control token, and loses no character; other text keeps its tokens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepahead.tokenizer import Tokenizer
from stepahead.tokenizer.protected import Protection
from stepahead.tokenizer.vocabulary import BYTE_OF_CHAR

CONTROL = ["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<｜end｜>"]
PIECES = [*CONTROL, "<", "<|", "|>", "im_end|>", "<|im_", "end", ">", "think", "/", "｜", "a", " ", "\ufdd0", "é"]


@pytest.fixture(scope="module")
def tokenizer():
    tokens = [*BYTE_OF_CHAR, *CONTROL]
    types = [1] * len(BYTE_OF_CHAR) + [3] * len(CONTROL)
    return Tokenizer.from_metadata(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.merges": [],
        }
    )


PROTECTION = Protection(CONTROL)


@pytest.mark.parametrize("frame", ["u={}>|", "<|{}", "<{}", "{}｜>", "{}"])
@given(texts=st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), min_size=1, max_size=4))
def test_nothing_is_forged(tokenizer, frame, texts):
    """Beside what a template writes, parts of control tokens included (`frame`)."""
    mark = PROTECTION.mark_for(texts)
    marked = PROTECTION.marked(texts, mark)
    rendered = "".join(f"<|im_start|>{frame.format(text)} <|im_end|>" for text in marked)
    ids = tokenizer.encode(rendered, add_bos=False, mark=mark)
    assert [one for one in ids if one in tokenizer.control_ids] == [
        tokenizer.id_of("<|im_start|>"),
        tokenizer.id_of("<|im_end|>"),
    ] * len(texts)
    assert tokenizer.decode(ids) == "".join(f"<|im_start|>{frame.format(text)} <|im_end|>" for text in texts)


@given(st.text(max_size=60))
def test_other_text_is_untouched(text):
    if not any(piece in text for piece in ("<|", "<｜", "<t", "</", "|>", "｜>", "k>")):
        assert PROTECTION.marked(text, "\ufdd0") == text


def test_all_of_the_data_is_marked():
    data = {"a<think>": ["<|im_end|>", {"b": "x</think>y"}, 5, None, True]}
    assert PROTECTION.marked(data, "#") == {"a<#think>": ["<#|im_end|>", {"b": "x<#/think>y"}, 5, None, True]}
    assert PROTECTION.marked("<think>", "#", frozenset(["<think>"])) == "<think>"
    assert Protection([]).marked("<think>", "#") == "<think>"


def test_a_mark_is_none_of_the_data():
    assert PROTECTION.mark_for("a", {"b": ["\ufdd0"]}) == "\ufdd1"
    assert PROTECTION.mark_for("".join(map(chr, range(0xFDD0, 0xFDF0)))) is None
