"""Finds whole tokens in text: control tokens and other texts that are matched before byte-pair merges.

Owns the cutting only. Must not know what the tokens mean or when they may be recognised.
"""

from collections.abc import Iterator, Mapping

from tokenizers import AddedToken, Tokenizer, models


class SpecialSplitter:
    """Cuts text at the texts of given tokens; the leftmost match wins, of those at one place the longest."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        # The library's matcher is linear in the text however many tokens there are. It numbers added tokens on
        # its own, so it gets a model of one word that stands for everything between matches.
        texts = [text for text in ids if text]
        self._matcher = Tokenizer(models.WordLevel({"": 0}, unk_token=""))
        self._matcher.add_tokens([AddedToken(text, normalized=False) for text in texts])
        self._ids = {self._matcher.token_to_id(text): ids[text] for text in texts}

    def split(self, text: str) -> Iterator[tuple[str, int | None]]:
        """The pieces of `text` in order: a matched token with its id, or text between tokens with None."""
        if not self._ids:
            yield text, None
            return
        encoding = self._matcher.encode(text, add_special_tokens=False)
        for own_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            yield text[start:end], self._ids.get(own_id)
