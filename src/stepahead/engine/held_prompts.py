"""Prompts that begin alike and arrive together: one is computed, the others wait where they would compute the same.

A request that waits goes on from the snapshot that the other leaves where the two part. It waits only for requests that
came before it, so that none waits for ever. Knows prompts and positions; not blocks or who is admitted.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from stepahead.backends.base import BLOCK_SIZE
from stepahead.engine.radix_tree import common_prefix_len
from stepahead.engine.request import Sequence

_STRIDE = 1024
"""Tokens that are compared at once."""


@dataclass(frozen=True, slots=True)
class _Hold:
    """Until `reader` has come by the position of the snapshot that is waited for, or never will."""

    reader: Sequence
    position: int

    @property
    def is_over(self) -> bool:
        reader = self.reader
        return reader.is_finished or reader.is_aborted or reader.num_computed_tokens >= self.position


class HeldPrompts:
    """Which waiting requests are held, and for whom. A snapshot serves whoever has up to `slack` tokens fewer."""

    def __init__(self, slack: int) -> None:
        self.num_held = 0  # requests that ever were
        self._slack = slack
        self._holds: dict[int, _Hold] = {}  # by kv_id of the one who waits
        self._common: dict[int, dict[int, int]] = {}  # by kv_id of a waiting and of a running one: equal tokens

    def is_held(self, sequence: Sequence) -> bool:
        """Whether what `hold` found still holds."""
        hold = self._holds.get(sequence.kv.kv_id)
        return hold is not None and not hold.is_over

    def hold(self, sequence: Sequence, running: Iterable[Sequence], num_known: int, needs_hidden: bool) -> bool:
        """Let a request wait if somebody is computing at least a block more of its prompt than the num_known tokens
        that could be had now; that one gets a snapshot for it."""
        best: Sequence | None = None
        best_length = num_known + BLOCK_SIZE - 1
        for reader in running:
            if self._may_serve(reader, sequence, needs_hidden):
                length = min(self._num_common(sequence, reader), sequence.num_prompt_tokens - 1)
                if length > best_length and self._meeting(reader, length) is not None:
                    best, best_length = reader, length
        if best is None:
            return False
        if sequence.kv.kv_id not in self._holds:
            self.num_held += 1
        self._holds[sequence.kv.kv_id] = _Hold(best, self._plan_snapshot(best, best_length))
        return True

    def forget(self, sequence: Sequence) -> None:
        """It waits no more."""
        self._holds.pop(sequence.kv.kv_id, None)
        self._common.pop(sequence.kv.kv_id, None)

    def _may_serve(self, reader: Sequence, sequence: Sequence, needs_hidden: bool) -> bool:
        """Who never drafts keeps no hidden rows."""
        return (
            bool(reader.snapshot_positions)  # else its prompt is done
            and reader.kv.kv_id < sequence.kv.kv_id
            and reader.request.cache_salt == sequence.request.cache_salt
            and not (needs_hidden and reader.request.speculation.mode == "off")
            and not reader.is_aborted
        )

    def _num_common(self, sequence: Sequence, reader: Sequence) -> int:
        known = self._common.setdefault(sequence.kv.kv_id, {})
        if reader.kv.kv_id not in known:
            known[reader.kv.kv_id] = _common_len(sequence.request.prompt_ids, reader.request.prompt_ids)
        return known[reader.kv.kv_id]

    def _meeting(self, reader: Sequence, length: int) -> int | None:
        """Where a snapshot of `reader` serves `length` of its tokens; None: it has come by."""
        planned = reader.snapshot_positions  # descending
        serving = [position for position in planned if length <= position <= length + self._slack]
        if serving:
            return serving[-1]
        return length if length > reader.num_computed_tokens else None

    def _plan_snapshot(self, reader: Sequence, length: int) -> int:
        position = self._meeting(reader, length)
        assert position is not None
        if position not in reader.snapshot_positions:
            reader.snapshot_positions.append(position)
            reader.snapshot_positions.sort(reverse=True)
        return position


def _common_len(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """As common_prefix_len, for prompts of any length."""
    start, end = 0, min(len(a), len(b))
    while start + _STRIDE <= end and a[start : start + _STRIDE] == b[start : start + _STRIDE]:
        start += _STRIDE
    return start + common_prefix_len(a[start : start + _STRIDE], b[start : start + _STRIDE])
