"""Finished sequences whose KV is kept: a chat turn that extends its own sequence does not run it again.

Owns the parked entries, oldest first. Knows token ids and KV holds, not requests or schedules. An entry is taken
whole by the one sequence that extends it, so no block ever has two owners.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from stepahead.engine.kv_cache import Drop, KVCache
from stepahead.engine.request import SequenceKV


@dataclass(frozen=True, slots=True, eq=False)
class ParkedKV:
    """A finished sequence's KV and the tokens that its rows stand for."""

    kv: SequenceKV
    token_ids: tuple[int, ...]  # (kv.num_tokens,)


class PrefixCache:
    """Parked entries: at most max_entries, and in no group more than max_blocks together."""

    def __init__(self, kv_cache: KVCache, max_entries: int, max_blocks: tuple[int, ...], on_drop: Drop) -> None:
        self._kv_cache = kv_cache
        self._max_entries = max_entries
        self._max_blocks = max_blocks
        self._on_drop = on_drop
        self.entries: list[ParkedKV] = []  # least recently used first

    def __len__(self) -> int:
        return len(self.entries)

    def num_held(self, group: int, besides: ParkedKV | None = None) -> int:
        """Blocks that parked entries hold in a group, one of them left out."""
        return sum(self._kv_cache.num_held(entry.kv, group) for entry in self.entries if entry is not besides)

    def park(self, kv: SequenceKV, token_ids: Seq[int]) -> None:
        """Keep a finished sequence's KV; the oldest entries make room."""
        self.entries.append(ParkedKV(kv, tuple(token_ids[: kv.num_tokens])))
        while self._is_over_limit():
            self.evict()

    def match(self, prompt_ids: Seq[int]) -> tuple[ParkedKV | None, int]:
        """The entry that saves the most rows of a prompt, and how many. One token is left to run, for its logits."""
        best, best_length = None, 0
        for entry in reversed(self.entries):
            length = min(_common_prefix_len(entry.token_ids, prompt_ids), len(prompt_ids) - 1)
            if length > best_length and self._kv_cache.can_truncate(entry.kv, length):
                best, best_length = entry, length
        return best, best_length

    def take(self, entry: ParkedKV, num_tokens: int) -> SequenceKV:
        """The entry's KV, cut to num_tokens; it belongs to the caller from here."""
        self.entries.remove(entry)
        self._kv_cache.truncate(entry.kv, num_tokens)
        return entry.kv

    def evict(self, besides: ParkedKV | None = None) -> None:
        """Drop the least recently used entry, one of them spared."""
        oldest = next(entry for entry in self.entries if entry is not besides)
        self.entries.remove(oldest)
        self._on_drop(oldest.kv)
        self._kv_cache.release(oldest.kv)

    def clear(self) -> None:
        while self.entries:
            self.evict()

    def _is_over_limit(self) -> bool:
        return len(self.entries) > self._max_entries or any(
            self.num_held(group) > limit for group, limit in enumerate(self._max_blocks)
        )


def _common_prefix_len(a: Seq[int], b: Seq[int]) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((index for index, (x, y) in pairs if x != y), min(len(a), len(b)))
