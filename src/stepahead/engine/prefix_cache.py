"""What earlier requests computed, kept for prompts that begin alike: shared block by block, found by tokens alone.

Owns the snapshots (engine/snapshot.py), what is pinned for them, and which goes first when memory is short: the least
recently used. Full blocks go with the last snapshot that needs them, so nothing is kept that no prompt could reach.
Knows token ids and KV holds, not requests or schedules.
"""

from collections import Counter
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from stepahead.backends.base import BLOCK_SIZE
from stepahead.engine.kv_cache import KVCache
from stepahead.engine.radix_tree import Node, RadixTree
from stepahead.engine.request import SequenceKV
from stepahead.engine.snapshot import RowBlock, Snapshot


@dataclass(frozen=True, slots=True, eq=False)
class Hit:
    """A prompt's first num_tokens are known, by a snapshot at or behind them."""

    snapshot: Snapshot
    num_tokens: int
    first_blocks: tuple[int, ...]  # by KV group: which block comes first in `blocks`
    blocks: tuple[tuple[int, ...], ...]  # by KV group; none of a draft group


class PrefixCache:
    """Snapshots, at most max_nbytes of them; None: as many as there are blocks for."""

    def __init__(
        self, kv_cache: KVCache, block_nbytes: tuple[int, ...] | None = None, max_nbytes: int | None = None
    ) -> None:
        """block_nbytes: what a block of each KV group takes."""
        self.nbytes = 0
        self.num_evicted = 0
        self._kv_cache = kv_cache
        self._block_nbytes = block_nbytes or (0,) * len(kv_cache.specs)
        self._max_nbytes = max_nbytes
        self._tree = RadixTree()
        self._snapshots: dict[Snapshot, None] = {}  # least recently used first
        # By group, and of hidden rows: how many snapshots and nodes need it. The cache is one holder, however many.
        self._pins: list[Counter[int]] = [Counter() for _ in kv_cache.specs]
        self._row_pins: Counter[RowBlock] = Counter()
        trunk = [(group, spec) for group, spec in enumerate(kv_cache.specs) if not spec.is_draft]
        self._sliding_groups = [group for group, spec in trunk if spec.window is not None]
        self._full_groups = [group for group, spec in trunk if spec.window is None]

    def __len__(self) -> int:
        return len(self._snapshots)

    def num_pinned(self, group: int) -> int:
        """Blocks that the cache holds in a group, sequences or not."""
        return len(self._pins[group])

    def num_idle(self, group: int) -> int:
        """Blocks of a group that no sequence holds and that can be had back. May be asked by other threads, which then
        hear about how it was."""
        return sum(self._kv_cache.num_holders(group, block) == 1 for block in list(self._pins[group]))

    def may_keep(self, num_tokens: int) -> bool:
        """False if a text of so many tokens is more than the cache may hold."""
        nbytes = sum(self._block_nbytes[group] * (num_tokens // BLOCK_SIZE) for group in self._full_groups)
        return self._max_nbytes is None or 0 < self._max_nbytes >= nbytes

    # --- taking ---
    def take(self, kv: SequenceKV, position: int) -> Snapshot:
        """A snapshot of a sequence whose rows below `position` are committed, and not yet trimmed for later ones.

        It is found once it is published; one that never is has to be discarded.
        """
        first_blocks, lowest = [0] * len(self._pins), 0
        blocks: list[tuple[int, ...]] = [()] * len(self._pins)
        for group in self._sliding_groups:
            first, held = self._kv_cache.window_blocks(kv, group, position)
            first_blocks[group], blocks[group] = first, tuple(held)
            lowest = max(lowest, self._kv_cache.lowest(group, first))
        for group in self._full_groups:
            first = position // BLOCK_SIZE
            first_blocks[group], blocks[group] = first, tuple(kv.tables[group][first : -(-position // BLOCK_SIZE)])
        for group, ids in enumerate(blocks):
            self._pin(group, ids)
        return Snapshot(position, tuple(first_blocks), tuple(blocks), lowest)

    def publish(self, snapshot: Snapshot, kv: SequenceKV, token_ids: Seq[int], salt: str = "") -> None:
        """Let prompts with the same salt find a snapshot of kv, which still holds the full blocks; the oldest make
        room."""
        same = self._tree.same(snapshot.position, token_ids, salt)
        if same is not None:
            if same.lowest <= snapshot.lowest and (same.hidden is not None or snapshot.hidden is None):
                self._touch(same)
                self.discard(snapshot)
                return
            self._remove(same)
        for node in self._tree.add(snapshot, token_ids, salt):
            node.blocks = tuple(kv.tables[group][node.depth - 1] for group in self._full_groups)
            for group, block in zip(self._full_groups, node.blocks, strict=True):
                self._pin(group, (block,))
        self._snapshots[snapshot] = None
        self._pin_rows(snapshot)
        while self._max_nbytes is not None and self.nbytes > self._max_nbytes and self.evict():
            pass

    def discard(self, snapshot: Snapshot) -> None:
        """Forget a snapshot that was not published."""
        for group, ids in enumerate(snapshot.blocks):
            self._unpin(group, ids)

    def known_blocks(self, token_ids: Seq[int], salt: str) -> list[tuple[int, ...]]:
        """Ids of the full blocks that a text begins with, each for all groups with full attention."""
        return self._tree.known_blocks(token_ids, salt)

    # --- using ---
    def match(self, prompt_ids: Seq[int], needs_hidden: bool, salt: str = "") -> Hit | None:
        """What saves the most rows of a prompt. One token is left to run, for its logits."""
        snapshot, num_tokens = self._tree.find(
            prompt_ids, salt, len(prompt_ids) - 1, lambda found, length: found.serves(length, needs_hidden)
        )
        if snapshot is None:
            return None
        end = -(-num_tokens // BLOCK_SIZE)
        blocks = [ids[: max(end - first, 0)] for first, ids in zip(snapshot.first_blocks, snapshot.blocks, strict=True)]
        first_blocks = list(snapshot.first_blocks)
        full = self._tree.full_blocks(snapshot)[:end]
        for number, group in enumerate(self._full_groups):
            blocks[group] = (*(ids[number] for ids in full), *blocks[group])
            first_blocks[group] = 0
        return Hit(snapshot, num_tokens, tuple(first_blocks), tuple(blocks))

    def attach(self, hit: Hit, kv: SequenceKV) -> None:
        """Let kv, which is empty, hold what was found. The last block, if it is not full, is not yet its own."""
        for group, ids in enumerate(hit.blocks):
            if ids:
                self._kv_cache.adopt(kv, group, hit.first_blocks[group], ids)
        kv.num_tokens = hit.num_tokens
        self._touch(hit.snapshot)

    # --- making room ---
    def evict(self) -> bool:
        """Drop the least recently used snapshot; sequences keep what they hold. False: there is none."""
        oldest = next(iter(self._snapshots), None)
        if oldest is None:
            return False
        self._remove(oldest)
        self.num_evicted += 1
        return True

    def clear(self) -> None:
        while self._snapshots:
            self._remove(next(iter(self._snapshots)))

    def _remove(self, snapshot: Snapshot) -> None:
        del self._snapshots[snapshot]
        self.discard(snapshot)
        for block in snapshot.hidden.blocks if snapshot.hidden is not None else ():
            self._row_pins[block] -= 1
            if self._row_pins[block] == 0:
                del self._row_pins[block]
                self.nbytes -= block.nbytes
        for node in self._tree.remove(snapshot):
            self._unpin_node(node)

    def _touch(self, snapshot: Snapshot) -> None:
        del self._snapshots[snapshot]
        self._snapshots[snapshot] = None

    def _pin(self, group: int, blocks: Seq[int]) -> None:
        pins = self._pins[group]
        for block in blocks:
            if pins[block] == 0:
                self._kv_cache.share(group, block)
                self.nbytes += self._block_nbytes[group]
            pins[block] += 1

    def _unpin(self, group: int, blocks: Seq[int]) -> None:
        pins = self._pins[group]
        for block in blocks:
            pins[block] -= 1
            if pins[block] == 0:
                del pins[block]
                self.nbytes -= self._block_nbytes[group]
                self._kv_cache.give_back(group, block)

    def _unpin_node(self, node: Node) -> None:
        for group, block in zip(self._full_groups, node.blocks, strict=True):
            self._unpin(group, (block,))

    def _pin_rows(self, snapshot: Snapshot) -> None:
        for block in snapshot.hidden.blocks if snapshot.hidden is not None else ():
            if self._row_pins[block] == 0:
                self.nbytes += block.nbytes
            self._row_pins[block] += 1
