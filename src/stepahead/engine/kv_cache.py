"""The KV cache as block ids: who holds which block of which group, and what may be freed.

Owns the free lists, the holders' counts and the block tables inside `SequenceKV`. Knows ids and positions, never
tensors, token ids or requests. One claim rule, one trim rule, one rollback: `truncate(n)` moves a length, or raises.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq

from stepahead.backends.base import BLOCK_SIZE
from stepahead.engine.request import SequenceKV
from stepahead.errors import CapacityError
from stepahead.models.model import KVSpec

SLACK = BLOCK_SIZE
"""Rows that sliding groups keep beyond their window: at least the widest draft + 1 (16 + 1). A whole block lets the
next chat turn differ from its own sequence in the last few tokens and still reuse it."""

FREE = -1


def blocks_needed(spec: KVSpec, num_tokens: int, step_rows: int, slack: int) -> int:
    """The most blocks that a sequence of num_tokens holds in a group, when no step runs more than step_rows rows.

    A draft group's heads may have to catch up window rows each, behind one another (head k+1 reads head k).
    """
    whole = -(-num_tokens // BLOCK_SIZE)
    if spec.window is None:
        return whole
    reach = spec.window * len(spec.layers) if spec.is_draft else spec.window
    span = reach - 1 + slack + step_rows
    # A span of s positions touches at most this many blocks, wherever it starts.
    return min(whole, (span - 1 + BLOCK_SIZE - 1) // BLOCK_SIZE + 1)


class KVCache:
    """Blocks of all groups, each free or held by one or more: sequences, and the prefix cache.

    Rows that are committed never change, and a sequence writes only behind its own: so a block may be held by others
    while its sequence fills it, but only one sequence may write to it (`is_shared`, `replace`).
    """

    def __init__(self, specs: tuple[KVSpec, ...], num_blocks: tuple[int, ...], slack: int) -> None:
        assert len(specs) == len(num_blocks) and slack >= 1
        self.specs = specs
        self.num_blocks = num_blocks
        self.slack = slack
        # Last freed, first claimed: a backend's untouched pages stay untouched as long as possible.
        self._free: list[list[int]] = [list(range(count - 1, -1, -1)) for count in num_blocks]
        self._num_holders: list[list[int]] = [[0] * count for count in num_blocks]
        self._next_id = 0

    def new(self) -> SequenceKV:
        """An empty hold on every group."""
        self._next_id += 1
        return SequenceKV(self._next_id, len(self.specs))

    def num_free(self, group: int) -> int:
        return len(self._free[group])

    def num_holders(self, group: int, block: int) -> int:
        return self._num_holders[group][block]

    def num_held(self, kv: SequenceKV, group: int) -> int:
        """Blocks that kv holds in a group."""
        table = kv.tables[group]
        return len(table) - table.count(FREE)

    def claim(self, kv: SequenceKV, group: int, start: int, end: int) -> bool:
        """Give kv blocks for positions [start, end). False, and nothing changed, if too few are free."""
        if end <= start:
            return True
        table, free = kv.tables[group], self._free[group]
        first, last = start // BLOCK_SIZE, (end - 1) // BLOCK_SIZE
        missing = [index for index in range(first, last + 1) if index >= len(table) or table[index] == FREE]
        if len(missing) > len(free):
            return False
        table.extend([FREE] * (last + 1 - len(table)))
        for index in missing:
            table[index] = self._pop(group)
        return True

    def share(self, group: int, block: int) -> None:
        """One holder more of a block that is held."""
        assert self._num_holders[group][block] > 0, "a free block has nothing to share"
        self._num_holders[group][block] += 1

    def give_back(self, group: int, block: int) -> None:
        """One holder less; the last one frees it."""
        self._num_holders[group][block] -= 1
        if self._num_holders[group][block] == 0:
            self._free[group].append(block)

    def adopt(self, kv: SequenceKV, group: int, first_index: int, blocks: Seq[int]) -> None:
        """Let kv, which holds nothing in the group, hold blocks of others, as its first_index-th and those after it."""
        assert not kv.tables[group], "only an empty table adopts"
        for block in blocks:
            self.share(group, block)
        kv.tables[group] = [FREE] * first_index + list(blocks)

    def is_shared(self, kv: SequenceKV, group: int, index: int) -> bool:
        """True if others hold kv's block, too."""
        return self._num_holders[group][kv.tables[group][index]] > 1

    def replace(self, kv: SequenceKV, group: int, index: int) -> tuple[int, int] | None:
        """Put a block of kv's own in the place of a shared one: (old, new), the caller copies. None: none is free."""
        if not self._free[group]:
            return None
        old, new = kv.tables[group][index], self._pop(group)
        kv.tables[group][index] = new
        self.give_back(group, old)
        return old, new

    def window_blocks(self, kv: SequenceKV, group: int, num_tokens: int) -> tuple[int, list[int]]:
        """What kv holds of a trunk group that a sequence of num_tokens keeps: number of the first block, and ids."""
        table, end = kv.tables[group], -(-num_tokens // BLOCK_SIZE)
        first = max(self._first_needed(self.specs[group], num_tokens), 0) // BLOCK_SIZE
        while first < end and table[first] == FREE:
            first += 1
        return first, table[first:end]

    def lowest(self, group: int, first_index: int) -> int:
        """The fewest tokens that a sequence may have whose blocks of a trunk group begin with the first_index-th."""
        window = self.specs[group].window
        return 0 if window is None or first_index == 0 else first_index * BLOCK_SIZE + window - 1

    def trim(self, kv: SequenceKV, group: int, first_needed: int) -> None:
        """Free the blocks wholly below first_needed; a trunk group keeps its window and slack."""
        spec = self.specs[group]
        assert spec.is_draft or first_needed <= self._first_needed(spec, kv.num_tokens), "trim inside the slack"
        table = kv.tables[group]
        for index in range(min(max(first_needed, 0) // BLOCK_SIZE, len(table)) - 1, -1, -1):
            if table[index] == FREE and not spec.is_draft:
                break  # the trunk is trimmed from the left: what lies below is gone already. Heads may skip rows
            self._put_back(table, group, index)

    def advance(self, kv: SequenceKV, num_written: int, num_tokens: int) -> None:
        """After a pass: rows below num_written were written, those from num_tokens on were rejected."""
        assert kv.num_tokens <= num_tokens <= num_written
        kv.num_tokens = num_written
        self.truncate(kv, num_tokens)
        for group, spec in enumerate(self.specs):
            if spec.window is not None and not spec.is_draft:
                self.trim(kv, group, self._first_needed(spec, num_tokens))

    def truncate(self, kv: SequenceKV, num_tokens: int) -> None:
        """Forget the rows from num_tokens on, in all groups. Raises CapacityError past the slack; nothing changes.

        Blocks that are claimed for passes on their way stay.
        """
        assert 0 <= num_tokens <= kv.num_tokens
        missing = self._missing_group(kv, num_tokens)
        if missing is not None:
            raise CapacityError(
                f"cannot go back from {kv.num_tokens} to {num_tokens} tokens: rows that the window of {missing.window} "
                f"in KV group {missing.name!r} needs are freed ({self.slack} are kept beyond it): recompute from 0"
            )
        first_unneeded = -(-max(num_tokens, kv.num_claimed) // BLOCK_SIZE)
        for group, table in enumerate(kv.tables):
            for index in range(len(table) - 1, first_unneeded - 1, -1):
                self._put_back(table, group, index)
            del table[first_unneeded:]
        kv.num_tokens = num_tokens

    def release(self, kv: SequenceKV) -> None:
        """Free everything that kv holds."""
        kv.num_tokens = kv.num_claimed = 0
        self.truncate(kv, 0)

    def _first_needed(self, spec: KVSpec, num_tokens: int) -> int:
        """First position that a trunk group keeps: the window of the first row after a rollback by all of slack."""
        return 0 if spec.window is None else num_tokens - self.slack - spec.window + 1

    def _missing_group(self, kv: SequenceKV, num_tokens: int) -> KVSpec | None:
        for spec, table in zip(self.specs, kv.tables, strict=True):
            if spec.is_draft or spec.window is None or num_tokens == 0:
                continue
            # Blocks are freed from the left, so the oldest key of the window decides.
            oldest = max(num_tokens - spec.window + 1, 0)
            if oldest < num_tokens and table[oldest // BLOCK_SIZE] == FREE:
                return spec
        return None

    def _pop(self, group: int) -> int:
        block = self._free[group].pop()
        self._num_holders[group][block] = 1
        return block

    def _put_back(self, table: list[int], group: int, index: int) -> None:
        if table[index] != FREE:
            self.give_back(group, table[index])
            table[index] = FREE


def size_groups(
    specs: Seq[KVSpec], context_length: int, max_num_seqs: int, chunk_tokens: int, slack: int
) -> tuple[int, ...]:
    """Blocks of each group, such that max_num_seqs sequences of any length run at once."""
    return tuple(max_num_seqs * blocks_needed(spec, context_length, chunk_tokens, slack) for spec in specs)


Drop = Callable[[SequenceKV], None]
"""Told that a sequence is gone, just before its blocks are given back."""
