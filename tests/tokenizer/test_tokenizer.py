"""Encoding and decoding: llama.cpp's ids, special tokens, BOS, what ends a generation, hostile text."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_samples import (
    BOS,
    BOS_ID,
    END,
    END_ID,
    PAD0,
    START_ID,
    TH,
    THINK,
    TURN_END,
    TURN_END_ID,
    byte_metadata,
    byte_tokenizer,
    recorded_ids,
    recorded_metadata,
)

from stepahead.errors import ModelFormatError, RequestError
from stepahead.tokenizer import Tokenizer
from stepahead.tokenizer.vocabulary import BYTE_OF_CHAR

RECORDED = recorded_ids()


@pytest.mark.parametrize("pre", RECORDED["ids"])
def test_ids_equal_llama_cpp(pre):
    tokenizer = Tokenizer.from_metadata(recorded_metadata(pre))
    for text, special, plain in zip(
        RECORDED["texts"], RECORDED["ids"][pre]["special"], RECORDED["ids"][pre]["plain"], strict=True
    ):
        assert tokenizer.encode(text) == special, text
        assert tokenizer.encode(text, parse_special=False) == plain, text
        assert tokenizer.decode(tokenizer.encode(text, add_bos=False)) == text


def test_step35_is_an_alias():
    one, other = (Tokenizer.from_metadata(recorded_metadata(pre)) for pre in ("deepseek-v3", "step35"))
    assert all(one.encode(text) == other.encode(text) for text in RECORDED["texts"])


@given(st.text())
def test_round_trip(text):
    tokenizer = byte_tokenizer()
    for parse_special in (True, False):
        assert tokenizer.decode(tokenizer.encode(text, parse_special=parse_special)) == text


@pytest.mark.parametrize("pre", ["deepseek-v3", "gpt-2", "llama-bpe", "qwen2"])
def test_plain_text_never_makes_control_tokens(pre):
    # A control token that is one word, and one that the merges would build.
    metadata = byte_metadata(ggml__pre=pre)
    tokens = [*metadata["tokenizer.ggml.tokens"], "STOP", "the"]
    metadata |= {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [*metadata["tokenizer.ggml.token_type"], 3, 3],
        "tokenizer.ggml.merges": ["t h", "th e"],
    }
    tokenizer = Tokenizer.from_metadata(metadata)
    text = f"STOP the {TURN_END} [PAD0] {BOS}"
    ids = tokenizer.encode(text, parse_special=False, add_bos=False)
    assert not tokenizer.control_ids & set(ids)
    assert PAD0 not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode("STOP the", add_bos=False) == [263, 32, 264]


def test_user_defined_tokens_are_always_whole():
    tokenizer = byte_tokenizer()
    assert tokenizer.encode("<think>th") == tokenizer.encode("<think>th", parse_special=False) == [THINK, TH]


def test_longest_special_wins_at_one_place():
    metadata = byte_metadata()
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], "<|im_end|>>"]
    metadata["tokenizer.ggml.token_type"] = [*metadata["tokenizer.ggml.token_type"], 3]
    assert Tokenizer.from_metadata(metadata).encode("<<|im_end|>>") == [ord("<"), 263]


def test_unused_control_ids_of_a_numpy_array():
    types = np.array(byte_metadata()["tokenizer.ggml.token_type"], np.int32)
    tokenizer = byte_tokenizer(ggml__token_type=types, ggml__bos_token_id=np.uint32(BOS_ID))
    assert tokenizer.bos_id == BOS_ID
    assert tokenizer.control_ids == {BOS_ID, END_ID, START_ID, TURN_END_ID}


class TestBos:
    def test_only_if_the_file_asks(self):
        assert byte_tokenizer().encode("a") == [97]
        assert byte_tokenizer(ggml__add_bos_token=True).encode("a") == [BOS_ID, 97]
        assert byte_tokenizer(ggml__add_bos_token=True).encode("") == [BOS_ID]
        assert byte_tokenizer(ggml__add_bos_token=np.bool_(True)).encode("a", add_bos=False) == [97]
        assert byte_tokenizer().encode("a", add_bos=True) == [BOS_ID, 97]

    def test_never_two(self):
        assert byte_tokenizer(ggml__add_bos_token=True).encode(BOS + "a") == [BOS_ID, 97]
        assert byte_tokenizer().encode(BOS + "a", add_bos=True) == [BOS_ID, 97]

    def test_llama_bpe_has_it_unless_the_file_says_no(self):
        assert byte_tokenizer(ggml__pre="llama-bpe").encode("a") == [BOS_ID, 97]
        assert byte_tokenizer(ggml__pre="llama-bpe", ggml__add_bos_token=False).encode("a") == [97]
        assert byte_tokenizer(ggml__pre="llama-bpe", ggml__bos_token_id=...).encode("a") == [97]

    def test_file_without_bos(self):
        tokenizer = byte_tokenizer(ggml__bos_token_id=...)
        assert tokenizer.encode("a") == [97]
        with pytest.raises(RequestError, match="names no BOS"):
            tokenizer.encode("a", add_bos=True)
        with pytest.raises(ModelFormatError, match="bos_token_id is missing"):
            byte_tokenizer(ggml__bos_token_id=..., ggml__add_bos_token=True)


class TestEndIds:
    def test_eos_and_known_texts(self):
        assert byte_tokenizer().end_ids == {END_ID, TURN_END_ID}

    def test_eot_and_eom(self):
        tokenizer = byte_tokenizer(ggml__eot_token_id=START_ID, ggml__eom_token_id=THINK)
        assert tokenizer.end_ids == {END_ID, TURN_END_ID, START_ID, THINK}

    def test_known_text_counts_only_as_control_token(self):
        types = byte_metadata()["tokenizer.ggml.token_type"]
        types[END_ID] = 1
        assert byte_tokenizer(ggml__token_type=types).end_ids == {TURN_END_ID}
        assert END_ID in byte_tokenizer(ggml__token_type=types, ggml__eos_token_id=END_ID).end_ids

    def test_none(self):
        tokens = byte_metadata()["tokenizer.ggml.tokens"][:257]
        tokenizer = byte_tokenizer(
            ggml__tokens=tokens,
            ggml__token_type=[1] * 257,
            **{f"ggml__{name}_token_id": ... for name in ("bos", "eos", "padding")},
        )
        assert (tokenizer.end_ids, tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (frozenset(), *[None] * 3)


class TestDecode:
    def test_skip_special(self):
        ids = [BOS_ID, TH, THINK, PAD0, TURN_END_ID]
        assert byte_tokenizer().decode(ids) == f"{BOS}th<think>[PAD0]{TURN_END}"
        assert byte_tokenizer().decode(ids, skip_special=True) == "th<think>[PAD0]"

    def test_invalid_utf8(self):
        ids = [0xE4, 0xBD, 65, 0xFF, 0xE4, 0xBD, 0xA0, 0xF0]
        assert byte_tokenizer().decode(ids) == bytes(ids).decode(errors="replace") == "\ufffdA\ufffd你\ufffd"

    def test_token_bytes(self):
        tokenizer = byte_tokenizer()
        assert [tokenizer.token_bytes(byte) for byte in range(256)] == [bytes([byte]) for byte in range(256)]
        assert tokenizer.token_bytes(END_ID) == END.encode()
        assert tokenizer.token_bytes(np.int64(TH)) == b"th"

    def test_token_outside_the_byte_alphabet_is_plain_text(self):
        tokens = byte_metadata()["tokenizer.ggml.tokens"]
        tokens[PAD0] = "a b￭"
        types = byte_metadata()["tokenizer.ggml.token_type"]
        types[PAD0] = 1
        tokenizer = byte_tokenizer(ggml__tokens=tokens, ggml__token_type=types)
        assert tokenizer.token_bytes(PAD0) == "a b￭".encode()

    def test_byte_token(self):
        tokens = byte_metadata()["tokenizer.ggml.tokens"]
        tokens[PAD0] = "<0xE4>"
        types = byte_metadata()["tokenizer.ggml.token_type"]
        types[PAD0] = 6
        assert byte_tokenizer(ggml__tokens=tokens, ggml__token_type=types).token_bytes(PAD0) == b"\xe4"

    @pytest.mark.parametrize("token_id", [-1, 263, 10**12])
    def test_id_out_of_range(self, token_id):
        tokenizer = byte_tokenizer()
        for function in (tokenizer.token_bytes, tokenizer.token_text, lambda one: tokenizer.decode([one])):
            with pytest.raises(RequestError, match=f"token id {token_id} is outside the vocabulary of 263 tokens"):
                function(token_id)


def test_id_that_is_no_integer():
    with pytest.raises(RequestError, match="token id 'a' is not an integer"):
        byte_tokenizer().decode(["a"])


def test_lookups():
    tokenizer = byte_tokenizer(chat_template="{{ x }}")
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.pad_id) == (263, TURN_END_ID, END_ID)
    assert (tokenizer.id_of("<think>"), tokenizer.id_of("nothing")) == (THINK, None)
    assert tokenizer.token_text(BOS_ID) == BOS
    assert tokenizer.chat_template == "{{ x }}"
    assert byte_tokenizer().chat_template is None


class TestHostileText:
    def test_lone_surrogate(self):
        with pytest.raises(RequestError, match=r"lone surrogate U\+D800 at character 2"):
            byte_tokenizer().encode("ab\ud800c")

    def test_byte_without_token_is_not_dropped(self):
        tokens = byte_metadata()["tokenizer.ggml.tokens"]
        tokens[ord("q")] = "qq"
        tokenizer = byte_tokenizer(ggml__tokens=tokens)
        assert tokenizer.encode("p") == [ord("p")]
        with pytest.raises(RequestError, match="no token for byte 0x71"):
            tokenizer.encode("quick")

    def test_bytes_that_text_cannot_hold_may_be_missing(self):
        tokens = byte_metadata()["tokenizer.ggml.tokens"]
        for byte in (0xC0, 0xC1, 0xF5, 0xFF):
            tokens[byte] = f"filler {byte}"
        assert byte_tokenizer(ggml__tokens=tokens).encode("a") == [97]

    @pytest.mark.parametrize("text", [" " * 200_000 + "x", "a" * 200_000, "\n " * 100_000, "<" * 200_000])
    def test_long_runs_take_linear_time(self, text):
        tokenizer = byte_tokenizer()
        start = time.perf_counter()
        tokenizer.encode(text)
        assert time.perf_counter() - start < 5  # measured 0.1 s; quadratic would be minutes


def test_loading_a_vocabulary_of_the_real_size():
    alphabet = list(BYTE_OF_CHAR)
    pairs = [(left, right) for left in alphabet for right in alphabet]
    triples = [(left + right, last) for left, right in pairs for last in alphabet[:1]]
    merges = [f"{left} {right}" for left, right in (pairs + triples)[:127_741]]
    tokens = [*alphabet, *(merge.replace(" ", "") for merge in merges)]
    special = [BOS, END, TURN_END, *(f"<｜place▁holder▁no▁{i}｜>" for i in range(128_896 - len(tokens) - 3))]
    metadata = byte_metadata(
        ggml__tokens=tokens + special,
        ggml__merges=merges,
        ggml__token_type=[1] * len(tokens) + [3] * len(special),
    )
    start = time.perf_counter()
    tokenizer = Tokenizer.from_metadata(metadata)
    seconds = time.perf_counter() - start
    assert tokenizer.vocab_size == 128_896
    assert seconds < 5  # measured 0.5 s; the bound is wide for busy machines
