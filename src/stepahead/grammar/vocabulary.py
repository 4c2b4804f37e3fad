"""A model's vocabulary as llguidance wants it: the bytes of each token, which are delimiters, and how text is cut."""

from typing import cast

from llguidance import LLTokenizer, TokenizerWrapper

from stepahead.errors import ConfigError, RequestError
from stepahead.tokenizer import Tokenizer

MAX_CUT = 2048
"""Characters of a forced text that are cut into tokens as they should be. Those beyond are cut again when their time
comes: a text that is forced as a whole must not be cut as a whole at each of its tokens."""


class GrammarVocabulary:
    """What llguidance.TokenizerWrapper offers, of our own tokenizer: nothing is guessed from how a token looks.

    A delimiter never stands for its characters: text in a grammar cannot match it, its id alone does.
    """

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """vocab_size: of the logits; tokens beyond the tokenizer's are never allowed."""
        if vocab_size < tokenizer.vocab_size:
            raise ConfigError(f"vocab_size={vocab_size} is less than the tokenizer's {tokenizer.vocab_size}")
        self._tokenizer = tokenizer
        delimiters = tokenizer.delimiter_ids | end_ids_of(tokenizer, vocab_size)
        self._delimiters = delimiters
        self.tokens = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        self.tokens += [b""] * (vocab_size - len(self.tokens))
        self.special_token_ids = sorted(delimiters)
        known = {spelt: token_id for token_id, spelt in enumerate(self.tokens) if len(spelt) == 1}
        self._byte_ids = [known.get(bytes((byte,)), 0) for byte in range(256)]
        self.bos_token_id = tokenizer.bos_id
        self.end_ids = sorted(end_ids_of(tokenizer, vocab_size))
        self.eos_token_id = self.end_ids[0]

    def __call__(self, text: str) -> list[int]:
        """Ids of plain text. An error here would end the process, so what cannot be cut gives nothing."""
        try:
            ids = self._tokenizer.encode(text[:MAX_CUT], add_bos=False, parse_special=False)
        except RequestError:
            return []
        spelt = [part for token_id in ids for part in self._spelt(token_id)]
        return spelt + [self._byte_ids[byte] for byte in text[MAX_CUT:].encode()]

    def _spelt(self, token_id: int) -> list[int]:
        """A tag that was added to the vocabulary, spelt by other tokens."""
        if token_id not in self._delimiters:
            return [token_id]
        text = self._tokenizer.token_text(token_id)
        if len(text) < 2:
            return []
        return self(text[:1]) + self(text[1:])


def end_ids_of(tokenizer: Tokenizer, vocab_size: int) -> frozenset[int]:
    """Tokens that end a text. llguidance needs one: where a vocabulary has none, the one that begins texts, or the last
    of all, which then means nothing else."""
    if tokenizer.end_ids:
        return tokenizer.end_ids
    return frozenset((vocab_size - 1 if tokenizer.bos_id is None else tokenizer.bos_id,))


def build_trie(vocabulary: GrammarVocabulary) -> LLTokenizer:
    """Takes about a second for 128 K tokens."""
    return LLTokenizer(cast(TokenizerWrapper, vocabulary), eos_token=vocabulary.end_ids)
