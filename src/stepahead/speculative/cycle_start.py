"""Where a sequence's draft-verify cycles begin on a device, from what the host holds of it and of its heads."""

import numpy as np

from stepahead.backends.base import Backend, Tensor
from stepahead.engine.request import Sequence
from stepahead.models.cycles import MAX_RECORDED, CycleStart, RecordedText
from stepahead.speculative.head_cache import HeadCache


def plain_start(sequence: Sequence) -> CycleStart:
    """Without heads."""
    position = sequence.num_computed_tokens
    last = np.array(sequence.token_ids[position:], np.int32)
    return CycleStart(position, last, (), (), (), _recorded(sequence, 0))


def drafting_start(sequence: Sequence, cache: HeadCache, depth: int, backend: Backend) -> CycleStart | None:
    """With the first `depth` heads, which are prepared; None: they have more rows to run than a cycle does."""
    position = sequence.num_computed_tokens
    next_row = tuple(cache.next_row[:depth])
    if any(position + head - row > depth for head, row in enumerate(next_row)):
        return None
    return CycleStart(
        position=position,
        token_ids=np.array(sequence.token_ids[min(next_row) :], np.int32),
        next_row=next_row,
        first_key=tuple(cache.first_valid[:depth]),
        levels=tuple(_rows_from(cache, head, row - 1, backend) for head, row in enumerate(next_row)),
        recorded=_recorded(sequence, depth),
    )


def _rows_from(cache: HeadCache, head: int, first: int, backend: Backend) -> Tensor | None:
    """Those of the level that the head reads, in memory of their own."""
    level = cache.levels[head]
    if first >= level.end:
        return None
    rows = backend.zeros(level.end - first, cache.hidden_size)
    level.copy(first, level.end, rows, 0)
    return rows


def _recorded(sequence: Sequence, depth: int) -> RecordedText | None:
    replay = sequence.request.replay
    return None if replay is None else replay.laid_out(len(sequence.token_ids), MAX_RECORDED, depth)
