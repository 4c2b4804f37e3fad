"""The passes that take the most activations, run on a meter: those of prompts, through the trunk and the heads.

Must not know: what is scheduled or drafted; only how many rows there can be.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import suppress
from typing import cast

import numpy as np

from stepahead.backends.base import BLOCK_SIZE, AttentionRows, Backend, Ints, KVBlocks
from stepahead.engine.batch import RowSpan, attention_rows
from stepahead.engine.kv_cache import SLACK
from stepahead.memory.meter import MeterBase
from stepahead.models.model import Checkpoint, ForwardBatch, Model
from stepahead.speculative.head_cache import HeadCache
from stepahead.speculative.head_passes import MAX_ROWS, MERGED_ROWS

NUM_SIZES = 30
"""Of passes, from a whole chunk down, four an octave, as the pool's classes are. A prompt ends anywhere, and is cut
where it must not keep others waiting: each number of rows leaves blocks of its own behind in the pool."""


class EnoughLayers(Exception):  # noqa: N818 - a signal, no fault of anyone's
    """Raised by a checkpoint: the rest of a pass would take nothing new."""


def run_passes(model: Model, backend: Backend, chunk_tokens: int, num_sizes: int = NUM_SIZES) -> Iterator[int]:
    """`backend` is the meter over which `model` was loaded; its arena notes what they take. Gives the rows of each."""
    kv = tuple(backend.new_kv(1, layer.num_kv_heads, layer.head_dim, "f16") for layer in model.layers)
    for rows in pass_sizes(chunk_tokens, num_sizes):
        _trunk_pass(model, kv, rows)
        yield rows
    for head in range(model.draft.num_heads if model.draft is not None else 0):
        for rows in pass_sizes(_most_head_rows(model), num_sizes):
            _head_pass(model, backend, head, kv, rows)
            yield rows


def pass_sizes(chunk_tokens: int, num_sizes: int = NUM_SIZES) -> list[int]:
    """Rows, the most first."""
    return sorted({max(int(chunk_tokens / 2 ** (number / 4)), 1) for number in range(num_sizes)}, reverse=True)


def layer_kinds(model: Model) -> list[tuple[object, ...]]:
    """Of the trunk's layers; those of one kind take as much."""
    trunk = model.layers[: model.num_trunk_layers]
    return [(layer.num_heads, layer.num_kv_heads, layer.window is None, layer.is_moe) for layer in trunk]


def tail_nbytes(model: Model, meter: MeterBase, context_length: int, chunk_tokens: int) -> int:
    """What one sequence's hidden rows take when its context is full."""
    if model.draft is None:
        return 0
    backend, before = cast(Backend, meter), meter.arena.nbytes_in_use
    cache = HeadCache(model.draft, backend, model.hidden_size, SLACK)
    rows = backend.zeros(chunk_tokens, model.hidden_size)
    for level in cache.levels:
        for start in range(0, context_length, chunk_tokens):
            level.store(start, rows, 0, min(chunk_tokens, context_length - start))
    del rows
    return meter.arena.nbytes_in_use - before


def _trunk_pass(model: Model, kv: Seq[KVBlocks], num_rows: int) -> None:
    attention = tuple(None if spec.is_draft else _attention(num_rows, spec.window) for spec in model.kv_specs)
    positions = next(rows.positions for rows in attention if rows is not None)
    with suppress(EnoughLayers):
        model.forward(ForwardBatch(_zeros(num_rows), positions, attention, _zeros(1)), kv, _first_of_each_kind(model))


def _first_of_each_kind(model: Model) -> Checkpoint:
    """Ends a pass when a layer of each kind has run: the others take what these have left."""
    kinds = layer_kinds(model)
    left = 1 + max(kinds.index(kind) for kind in set(kinds))

    def count() -> None:
        nonlocal left
        if left == 0:
            raise EnoughLayers
        left -= 1

    return count


def _most_head_rows(model: Model) -> int:
    """Of a pass in which a head catches up, which is no matter of chunks: it goes back a window for itself, and one for
    each head behind it."""
    assert model.draft is not None
    window = model.draft.window
    return MAX_ROWS if window is None else min(window * model.draft.num_heads + MERGED_ROWS, MAX_ROWS)


def _head_pass(model: Model, backend: Backend, head: int, kv: Seq[KVBlocks], num_rows: int) -> None:
    """Of the first window of rows, the outputs are of no use."""
    assert model.draft is not None
    group = model.layers[model.draft.layers[head]].kv_group
    rows = _attention(num_rows, model.kv_specs[group].window)
    attention = tuple(rows if number == group else None for number in range(len(model.kv_specs)))
    first, last = min(model.draft.window or 0, num_rows - 1), np.array([num_rows - 1], np.int32)
    wanted = np.arange(first, num_rows, dtype=np.int32)
    batch = ForwardBatch(_zeros(num_rows), rows.positions, attention, last, wanted)
    model.draft_forward(head, batch, backend.zeros(num_rows, model.hidden_size), kv, _go_on)


def _attention(num_rows: int, window: int | None) -> AttentionRows:
    """The rows of one sequence, from its first on; all in one block, since nobody reads it."""
    return attention_rows([RowSpan(0, num_rows, [0] * -(-num_rows // BLOCK_SIZE))], window)


def _zeros(count: int) -> Ints:
    return np.zeros(count, np.int32)


def _go_on() -> None:
    pass
