"""Damaged and unsupported metadata: every fault is named."""

import numpy as np
import pytest
from tokenizer_samples import byte_metadata, byte_tokenizer

from stepahead.errors import ModelFormatError, UnsupportedModelError

TOKENS = byte_metadata()["tokenizer.ggml.tokens"]
TYPES = byte_metadata()["tokenizer.ggml.token_type"]


@pytest.mark.parametrize("name", ["model", "pre", "tokens", "merges", "token_type"])
def test_missing_key(name):
    with pytest.raises(ModelFormatError, match=rf"tokenizer\.ggml\.{name} is missing"):
        byte_tokenizer(**{f"ggml__{name}": ...})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("model", 3, "must be a string, not int"),
        ("pre", ["gpt-2"], "must be a string, not list"),
        ("tokens", "abc", "must be an array of strings"),
        ("tokens", [*TOKENS[:-1], 7], "must be an array of strings"),
        ("tokens", [], "is empty"),
        ("tokens", [*TOKENS[:-1], TOKENS[0]], r"holds 'Ā' twice, as 0 and 262"),
        ("merges", [b"t h"], "must be an array of strings"),
        ("merges", ["th"], "entry 0: 'th' is not two tokens"),
        ("merges", ["t h", "t h e"], "entry 1: 't h e' is not two tokens"),
        ("merges", [" h"], "is not two tokens"),
        ("merges", ["t "], "is not two tokens"),
        ("merges", ["t h", "th x"], "entry 1: 'th x' needs 'thx', not in the vocabulary"),
        ("merges", ["t xy"], "needs 'xy', not in the vocabulary"),
        ("merges", ["t h", "t h"], "holds a pair twice"),
        ("token_type", TYPES[:-1], "has 262 entries, tokenizer.ggml.tokens has 263"),
        ("token_type", [*TYPES[:-1], 7], r"of token 262 is 7; types go from 1 to 6"),
        ("token_type", [0, *TYPES[1:]], "of token 0 is 0"),
        ("token_type", [1.5] * 263, "must be an array of integers"),
        ("token_type", [True] * 263, "must be an array of integers"),
        ("token_type", np.ones((1, 263), np.int32), "must be an array of integers"),
        ("token_type", 1, "must be an array of integers"),
        ("bos_token_id", 263, "is 263, outside the vocabulary of 263 tokens"),
        ("eos_token_id", -1, "is -1, outside the vocabulary"),
        ("eot_token_id", 2**32 - 1, "outside the vocabulary"),
        ("eom_token_id", "1", "must be an integer, not str"),
        ("padding_token_id", True, "must be an integer, not bool"),
        ("add_bos_token", 1, "must be a bool, not int"),
    ],
)
def test_damaged_key(name, value, message):
    with pytest.raises(ModelFormatError, match=message):
        byte_tokenizer(**{f"ggml__{name}": value})


def test_damaged_chat_template():
    with pytest.raises(ModelFormatError, match=r"tokenizer\.chat_template must be a string"):
        byte_tokenizer(chat_template=1)


def test_unsupported_model():
    with pytest.raises(UnsupportedModelError, match="'llama' is not supported; supported is gpt2"):
        byte_tokenizer(ggml__model="llama")


def test_unsupported_pre_tokenizer():
    with pytest.raises(UnsupportedModelError, match=r"'tekken' .*deepseek-v3, gpt-2, llama-bpe, qwen2, step35"):
        byte_tokenizer(ggml__pre="tekken")
