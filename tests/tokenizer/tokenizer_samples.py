"""What the tests of this folder share: recorded data, and small vocabularies made on the spot."""

import json
from pathlib import Path

from stepahead.tokenizer import Tokenizer
from stepahead.tokenizer.vocabulary import BYTE_OF_CHAR

DATA = Path(__file__).parent / "data"

BOS, END, START, TURN_END = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<|im_start|>", "<|im_end|>"


def recorded_ids():
    return json.loads((DATA / "llama_cpp_ids.json").read_text(encoding="utf-8"))


def recorded_metadata(pre):
    return {**recorded_ids()["metadata"], "tokenizer.ggml.pre": pre}


def byte_metadata(**changes):
    """256 byte tokens (id = byte), one merge, an ordinary, a user-defined, a filler and four control tokens."""
    chars = {byte: char for char, byte in BYTE_OF_CHAR.items()}
    tokens = [chars[byte] for byte in range(256)] + ["th", "<think>", "[PAD0]", BOS, END, START, TURN_END]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "deepseek-v3",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["t h"],
        "tokenizer.ggml.token_type": [1] * 257 + [4, 5] + [3] * 4,
        "tokenizer.ggml.bos_token_id": 259,
        "tokenizer.ggml.eos_token_id": 262,
        "tokenizer.ggml.padding_token_id": 260,
    }
    renamed = {name.replace("__", "."): value for name, value in changes.items()}
    metadata.update({f"tokenizer.{name}": value for name, value in renamed.items()})
    return {key: value for key, value in metadata.items() if value is not ...}


def byte_tokenizer(**changes):
    return Tokenizer.from_metadata(byte_metadata(**changes))


TH, THINK, PAD0, BOS_ID, END_ID, START_ID, TURN_END_ID = range(256, 263)
