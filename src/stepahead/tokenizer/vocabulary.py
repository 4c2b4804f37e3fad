"""The vocabulary of a GGUF file, checked once: token texts and types, merges, special ids.

Owns the `tokenizer.*` keys and the byte-level alphabet. Must not know how text is cut or encoded, nor how a file is
read: it takes the metadata as a plain mapping.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from stepahead.errors import ModelFormatError, UnsupportedModelError

MODEL_KEY = "tokenizer.ggml.model"
PRE_KEY = "tokenizer.ggml.pre"
TOKENS_KEY = "tokenizer.ggml.tokens"
MERGES_KEY = "tokenizer.ggml.merges"
TYPES_KEY = "tokenizer.ggml.token_type"
ADD_BOS_KEY = "tokenizer.ggml.add_bos_token"
CHAT_TEMPLATE_KEY = "tokenizer.chat_template"

# Control tokens that end a turn by their text, whatever the file's eos says: Step-3.5 files name one of the two.
END_TEXTS = ("<｜end▁of▁sentence｜>", "<|im_end|>")


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Token texts as the file writes them, and what the file says about them."""

    tokens: list[str]
    types: list[int]
    ids: Mapping[str, int]
    merges: list[tuple[str, str]]  # in order of rank
    pre: str
    add_bos: bool | None  # None: the file does not say
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    end_ids: frozenset[int]
    chat_template: str | None

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "Vocabulary":
        """Read and check the `tokenizer.*` keys.

        Raises ModelFormatError for keys that are missing, of the wrong type or contradict each other, and
        UnsupportedModelError for a tokenizer model other than `gpt2`.
        """
        model = _string(metadata, MODEL_KEY)
        if model != "gpt2":
            raise UnsupportedModelError(f"tokenizer model {model!r} is not supported; supported is gpt2")
        tokens = _strings(metadata, TOKENS_KEY)
        ids = _index(tokens)
        types = _token_types(metadata, len(tokens))
        special = {name: _token_id(metadata, name, len(tokens)) for name in ("bos", "eos", "eot", "eom", "padding")}
        ends = {special[name] for name in ("eos", "eot", "eom")}
        ends |= {ids[text] for text in END_TEXTS if text in ids and types[ids[text]] == TokenType.CONTROL}
        return cls(
            tokens=tokens,
            types=types,
            ids=ids,
            merges=_merges(metadata, ids),
            pre=_string(metadata, PRE_KEY),
            add_bos=_optional_bool(metadata, ADD_BOS_KEY),
            bos_id=special["bos"],
            eos_id=special["eos"],
            pad_id=special["padding"],
            end_ids=frozenset(token_id for token_id in ends if token_id is not None),
            chat_template=_string(metadata, CHAT_TEMPLATE_KEY) if CHAT_TEMPLATE_KEY in metadata else None,
        )

    def ids_of_types(self, *types: TokenType) -> frozenset[int]:
        """Ids of all tokens of these types."""
        return frozenset(token_id for token_id, kind in enumerate(self.types) if kind in types)

    def frequent_ids(self, count: int) -> list[int]:
        """`count` ids that are likely to be the most frequent, in no order of note.

        First those that end a text and the special tokens that the chat template writes, then single bytes, then merges
        by rank: byte-pair encoding merges what is most frequent first. What is left goes by id.
        """
        template = self.chat_template or ""
        special = sorted(self.ids_of_types(TokenType.CONTROL, TokenType.USER_DEFINED))
        in_order = itertools.chain(
            sorted(self.end_ids),
            () if self.bos_id is None else (self.bos_id,),
            (token_id for token_id in special if self.tokens[token_id] in template),
            (self.ids[char] for char in BYTE_OF_CHAR if char in self.ids),
            (self.ids[left + right] for left, right in self.merges if left + right in self.ids),
            range(len(self.tokens)),
        )
        found: dict[int, None] = {}
        for token_id in in_order:
            if len(found) >= count:
                break
            found[token_id] = None
        return list(found)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; `token_id` must be in range."""
        text, kind = self.tokens[token_id], self.types[token_id]
        if kind == TokenType.BYTE and len(text) == 6 and text.startswith("<0x"):
            return bytes.fromhex(text[3:5])
        if kind in (TokenType.NORMAL, TokenType.BYTE):
            try:
                return bytes(map(BYTE_OF_CHAR.__getitem__, text))
            except KeyError:
                # A token with characters outside the alphabet was added as plain text, whatever its type says.
                pass
        return text.encode("utf-8")


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable alphabet: bytes that print stand for themselves, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTE_OF_CHAR: Mapping[str, int] = _byte_alphabet()


def _require(metadata: Mapping[str, Any], key: str) -> Any:
    if key not in metadata:
        raise ModelFormatError(f"metadata key {key} is missing; the file cannot turn text into tokens without it")
    return metadata[key]


def _string(metadata: Mapping[str, Any], key: str) -> str:
    value = _require(metadata, key)
    if not isinstance(value, str):
        raise ModelFormatError(f"metadata key {key} must be a string, not {type(value).__name__}")
    return value


def _strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    value = _require(metadata, key)
    if not isinstance(value, list | tuple) or not set(map(type, value)) <= {str}:
        raise ModelFormatError(f"metadata key {key} must be an array of strings")
    return list(value)


def _optional_bool(metadata: Mapping[str, Any], key: str) -> bool | None:
    value = metadata.get(key)
    if value is None:
        return None
    if not isinstance(value, bool | np.bool_):
        raise ModelFormatError(f"metadata key {key} must be a bool, not {type(value).__name__}")
    return bool(value)


def _token_id(metadata: Mapping[str, Any], name: str, num_tokens: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    value = metadata.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ModelFormatError(f"metadata key {key} must be an integer, not {type(value).__name__}")
    if not 0 <= value < num_tokens:
        raise ModelFormatError(f"metadata key {key} is {value}, outside the vocabulary of {num_tokens} tokens")
    return int(value)


def _index(tokens: list[str]) -> dict[str, int]:
    if not tokens:
        raise ModelFormatError(f"metadata key {TOKENS_KEY} is empty; a vocabulary needs at least one token")
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) < len(tokens):
        first, again = next((token_id, ids[text]) for token_id, text in enumerate(tokens) if ids[text] != token_id)
        raise ModelFormatError(f"{TOKENS_KEY} holds {tokens[first]!r} twice, as {first} and {again}")
    return ids


def _token_types(metadata: Mapping[str, Any], num_tokens: int) -> list[int]:
    value = _require(metadata, TYPES_KEY)
    types = np.asarray(value) if isinstance(value, list | tuple | np.ndarray) else None
    if types is None or types.ndim != 1 or not np.issubdtype(types.dtype, np.integer):
        raise ModelFormatError(f"metadata key {TYPES_KEY} must be an array of integers")
    if len(types) != num_tokens:
        raise ModelFormatError(f"{TYPES_KEY} has {len(types)} entries, {TOKENS_KEY} has {num_tokens}; must be equal")
    wrong = np.flatnonzero((types < TokenType.NORMAL) | (types > TokenType.BYTE))
    if wrong.size:
        raise ModelFormatError(f"{TYPES_KEY} of token {wrong[0]} is {types[wrong[0]]}; types go from 1 to 6")
    result: list[int] = types.tolist()
    return result


def _merges(metadata: Mapping[str, Any], ids: Mapping[str, int]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for rank, merge in enumerate(_strings(metadata, MERGES_KEY)):
        left, space, right = merge.partition(" ")
        if not (left and space and right) or " " in right:
            raise ModelFormatError(f"{MERGES_KEY}, entry {rank}: {merge!r} is not two tokens with a space between")
        if not (left in ids and right in ids and left + right in ids):
            unknown = next(text for text in (left, right, left + right) if text not in ids)
            raise ModelFormatError(f"{MERGES_KEY}, entry {rank}: {merge!r} needs {unknown!r}, not in the vocabulary")
        pairs.append((left, right))
    if len(set(pairs)) < len(pairs):
        raise ModelFormatError(f"{MERGES_KEY} holds a pair twice; the rank of a merge must be unique")
    return pairs
