"""A model that says what a test tells it to: a grammar that allows one token after another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from support.served import Served


@dataclass(frozen=True)
class Dictation:
    """A Grammar (engine/params.py); the last token is said until something else ends the text."""

    ids: tuple[int, ...]
    at: int = 0
    warnings: tuple[str, ...] = ()
    is_finished: bool = False

    def mask(self, logits: Any) -> None:
        wanted = self.ids[min(self.at, len(self.ids) - 1)]
        kept = logits[wanted]
        logits[:] = -np.inf
        logits[wanted] = kept

    def advance(self, token_id: int) -> "Dictation":
        return replace(self, at=self.at + 1)


def dictate(served: Served, said: str | Sequence[int]) -> list[int]:
    """Every answer from now on is `said`, and then the model's end token; returns its tokens, without that one."""
    tokenizer = served.service.llm.llm.tokenizer
    ids = tokenizer.encode(said, add_bos=False) if isinstance(said, str) else list(said)
    dictation = Dictation((*ids, tokenizer.eos_id))
    served.service._grammar = lambda request, is_reasoning: dictation
    return ids
