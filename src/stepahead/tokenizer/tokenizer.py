"""Text to token ids and back, from the vocabulary of a GGUF file.

Owns encoding, decoding and what ends a generation. Must not know about files, chat formats or requests; streaming
belongs to the detokenizer.
"""

import operator
import re
from collections.abc import Iterable, Mapping
from typing import Any

import tokenizers
from tokenizers import models

from stepahead.errors import ModelFormatError, RequestError
from stepahead.tokenizer.pre_tokenizer import PreTokenizer
from stepahead.tokenizer.special_splitter import SpecialSplitter
from stepahead.tokenizer.vocabulary import ADD_BOS_KEY, BYTE_OF_CHAR, TokenType, Vocabulary

TAG = re.compile(r"<[^<>]+>")

# Bytes that no valid UTF-8 text contains; a vocabulary may lack them.
_NEVER_IN_UTF8 = frozenset((0xC0, 0xC1, *range(0xF5, 0x100)))


class Tokenizer:
    """A byte-level BPE tokenizer. Immutable after construction; safe to share between threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Build from a checked vocabulary. Raises UnsupportedModelError for an unknown pre-tokenizer."""
        pre = PreTokenizer.named(vocabulary.pre)
        self._vocabulary = vocabulary
        self._bpe = _build_bpe(vocabulary, pre)
        always = vocabulary.ids_of_types(TokenType.USER_DEFINED)
        special = vocabulary.ids_of_types(TokenType.USER_DEFINED, TokenType.CONTROL, TokenType.UNKNOWN)
        self._plain_splitter = SpecialSplitter({vocabulary.tokens[token_id]: token_id for token_id in sorted(always)})
        self._special_splitter = SpecialSplitter(
            {vocabulary.tokens[token_id]: token_id for token_id in sorted(special)}
        )
        self._missing_bytes = bytes(
            byte for char, byte in BYTE_OF_CHAR.items() if char not in vocabulary.ids and byte not in _NEVER_IN_UTF8
        )
        self.control_ids = vocabulary.ids_of_types(TokenType.CONTROL)
        self.delimiter_ids = _delimiter_ids(vocabulary)
        self.add_bos = pre.add_bos if vocabulary.add_bos is None else vocabulary.add_bos
        if self.add_bos and vocabulary.bos_id is None:
            if vocabulary.add_bos:
                raise ModelFormatError(f"{ADD_BOS_KEY} is true, but tokenizer.ggml.bos_token_id is missing")
            self.add_bos = False

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """Build from the `tokenizer.*` metadata of a GGUF file, given as a mapping from key to value.

        Raises ModelFormatError for missing or contradictory keys, UnsupportedModelError for a tokenizer model or
        pre-tokenizer that this version does not know.
        """
        return cls(Vocabulary.from_metadata(metadata))

    @property
    def vocab_size(self) -> int:
        """Number of tokens, fillers included."""
        return len(self._vocabulary.tokens)

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text, if the file names one."""
        return self._vocabulary.bos_id

    @property
    def eos_id(self) -> int | None:
        """The file's end-of-sequence token; generation ends at any of `end_ids`."""
        return self._vocabulary.eos_id

    @property
    def pad_id(self) -> int | None:
        """The file's padding token."""
        return self._vocabulary.pad_id

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a generation: eos, eot, eom of the file and control tokens known to end a turn."""
        return self._vocabulary.end_ids

    @property
    def chat_template(self) -> str | None:
        """Source of the file's chat template."""
        return self._vocabulary.chat_template

    def frequent_ids(self, count: int) -> list[int]:
        """`count` ids that are likely to be the most frequent in any text, those that end it among them."""
        return self._vocabulary.frequent_ids(count)

    def id_of(self, text: str) -> int | None:
        """Id of the token that the file writes as `text` (ordinary tokens in the byte-level alphabet), or None."""
        return self._vocabulary.ids.get(text)

    def token_text(self, token_id: int) -> str:
        """The text of a token as the file writes it. Raises RequestError for an id outside the vocabulary."""
        return self._vocabulary.tokens[self._checked(token_id)]

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for, possibly a part of a character.

        Control tokens and fillers give their text as UTF-8. Raises RequestError for an id outside the vocabulary.
        """
        return self._vocabulary.token_bytes(self._checked(token_id))

    def encode(
        self, text: str, *, add_bos: bool | None = None, parse_special: bool = True, mark: str | None = None
    ) -> list[int]:
        """Token ids of `text`.

        `add_bos` None puts BOS in front iff the file asks for it; a text that begins with BOS gets no second one.
        With `parse_special` False, control tokens in the text are encoded as the characters they are made of: for
        text from outside that must not forge turns. User-defined tokens are always recognised. `mark` is taken out of
        what lies between tokens, and so keeps text apart that would spell one: see protected.py.
        Raises RequestError for text that is not valid Unicode, for characters that the vocabulary cannot express,
        and for `add_bos` on a file without BOS.
        """
        self._check_text(text)
        splitter = self._special_splitter if parse_special else self._plain_splitter
        ids: list[int] = []
        for piece, token_id in splitter.split(text):
            if token_id is None:
                plain = piece if mark is None else piece.replace(mark, "")
                ids += self._bpe.encode(plain, add_special_tokens=False).ids
            else:
                ids.append(token_id)
        return self._with_bos(ids, self.add_bos if add_bos is None else add_bos)

    def decode(self, token_ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of `token_ids`; bytes that are not UTF-8 become U+FFFD, control tokens nothing if `skip_special`.

        Raises RequestError for an id outside the vocabulary.
        """
        pieces = (
            self.token_bytes(token_id) for token_id in token_ids if not (skip_special and token_id in self.control_ids)
        )
        return b"".join(pieces).decode("utf-8", errors="replace")

    def cut(self, text: str, mark: str | None = None) -> list[tuple[str, int | None]]:
        """The pieces that `encode` sees: a special token's text with its id, or plain text with None."""
        pieces = self._special_splitter.split(text)
        return [(piece if mark is None else piece.replace(mark, ""), token_id) for piece, token_id in pieces]

    def _with_bos(self, ids: list[int], add_bos: bool) -> list[int]:
        if not add_bos:
            return ids
        if self.bos_id is None:
            raise RequestError("add_bos is true, but the model file names no BOS token; leave add_bos out")
        return ids if ids[:1] == [self.bos_id] else [self.bos_id, *ids]

    def _check_text(self, text: str) -> None:
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RequestError(
                f"text holds a lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, "
                "which is not valid Unicode; decode the text correctly or remove it"
            ) from None
        # The BPE model would drop such bytes without a word.
        for byte in self._missing_bytes:
            if byte in data:
                raise RequestError(f"the vocabulary has no token for byte 0x{byte:02X} of the text; leave it out")

    def _checked(self, token_id: int) -> int:
        try:
            index = operator.index(token_id)
        except TypeError:
            raise RequestError(f"token id {token_id!r} is not an integer") from None
        if not 0 <= index < self.vocab_size:
            raise RequestError(f"token id {index} is outside the vocabulary of {self.vocab_size} tokens")
        return index


def _delimiter_ids(vocabulary: Vocabulary) -> frozenset[int]:
    """Tokens that mark places in a text instead of spelling it: what plain text cannot make, and added tags."""
    apart = vocabulary.ids_of_types(TokenType.CONTROL, TokenType.UNKNOWN, TokenType.UNUSED)
    added = vocabulary.ids_of_types(TokenType.USER_DEFINED)
    tags = {token_id for token_id in added if TAG.fullmatch(vocabulary.tokens[token_id])}
    return frozenset(token_id for token_id in apart if len(vocabulary.tokens[token_id]) != 1) | tags


def _build_bpe(vocabulary: Vocabulary, pre: PreTokenizer) -> tokenizers.Tokenizer:
    """The merge engine, without control tokens and fillers: plain text must not be able to make them.

    Tokens of one character stay, whatever their type: they are the alphabet.
    """
    apart = vocabulary.ids_of_types(TokenType.CONTROL, TokenType.UNKNOWN, TokenType.UNUSED)
    hidden = {text for token_id in apart if len(text := vocabulary.tokens[token_id]) != 1}
    ids = {text: token_id for text, token_id in vocabulary.ids.items() if text not in hidden}
    merges = vocabulary.merges
    if hidden:
        merges = [pair for pair in merges if hidden.isdisjoint((*pair, pair[0] + pair[1]))]
    bpe = tokenizers.Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=pre.ignore_merges))
    bpe.pre_tokenizer = pre.build()
    return bpe
