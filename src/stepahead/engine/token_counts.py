"""How often each token stands in a sequence, kept up to date as the sequence grows: what the penalties look at.

Counts are of committed tokens; the tokens of a draft lie over them and are never entered here. This file knows
nothing about logits or sampling.
"""

from collections import Counter
from collections.abc import Sequence as Seq

import numpy as np
import numpy.typing as npt


class TokenCounts:
    """Distinct tokens of prompt and output in order of appearance, and how often each stands in the output."""

    __slots__ = ("_counts", "_ids", "_index", "num_tokens")

    def __init__(self, prompt_ids: Seq[int]) -> None:
        distinct = np.unique(np.asarray(prompt_ids, dtype=np.int64))
        self._index = {int(token_id): number for number, token_id in enumerate(distinct)}
        self._ids = distinct  # (capacity,) the first len(_index) are in use
        self._counts = np.zeros(distinct.shape, dtype=np.int64)  # (capacity,)
        self.num_tokens = len(prompt_ids)  # of the sequence, how many have been entered

    def catch_up(self, token_ids: Seq[int]) -> None:
        """Enter what the sequence has gained; `token_ids` is all of it, and only ever grows."""
        assert len(token_ids) >= self.num_tokens, "a sequence never loses committed tokens"
        for position in range(self.num_tokens, len(token_ids)):
            number = self._enter(token_ids[position])  # may move the arrays
            self._counts[number] += 1
        self.num_tokens = len(token_ids)

    def with_pending(self, pending: Seq[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Distinct ids of prompt, output and `pending`, and how often each stands in output and `pending`."""
        num_ids = len(self._index)
        ids, counts = self._ids[:num_ids], self._counts[:num_ids]
        if not pending:
            return ids, counts
        added = Counter(pending)
        new = [token_id for token_id in added if token_id not in self._index]
        counts = np.concatenate([counts, np.array([added[token_id] for token_id in new], dtype=np.int64)])
        for token_id, count in added.items():
            number = self._index.get(token_id)
            if number is not None:
                counts[number] += count
        return np.concatenate([ids, np.array(new, dtype=np.int64)]), counts

    def _enter(self, token_id: int) -> int:
        number = self._index.setdefault(token_id, len(self._index))
        if number == len(self._ids):
            spare = np.zeros(max(16, number), dtype=np.int64)
            self._ids = np.concatenate([self._ids, spare])
            self._counts = np.concatenate([self._counts, spare])
        self._ids[number] = token_id
        return number
