"""How many blocks of keys and values there are: for the sequences that run, and for the prefix cache beside them.

Owns these numbers alone, so that a plan made before loading and the runner that takes the memory cannot differ.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace

from stepahead.backends.base import BLOCK_SIZE, Backend
from stepahead.engine.kv_cache import blocks_needed, size_groups
from stepahead.models.model import KVSpec, Model

CACHED_SEQUENCES = 2
"""The prefix cache may take what this many sequences of the whole context take, unless told otherwise."""

MAX_CACHED_BLOCKS = 1 << 20
"""Of a group, for the prefix cache: 67 million tokens. Each block costs some bytes even while it is free."""


@dataclass(frozen=True, slots=True)
class KVSizes:
    """By KV group; cache_nbytes: what the prefix cache may hold, in blocks of its own or of idle sequences."""

    block_nbytes: tuple[int, ...]  # of a block, in all layers of a group
    sequence_blocks: tuple[int, ...]
    used_blocks: tuple[int, ...]  # of these, the most that are in use at one time
    cache_blocks: tuple[int, ...]  # more than the sequences need
    cache_nbytes: int

    @property
    def num_blocks(self) -> tuple[int, ...]:
        return tuple(map(sum, zip(self.sequence_blocks, self.cache_blocks, strict=True)))

    @property
    def used_nbytes(self) -> tuple[int, ...]:
        return _product(self.block_nbytes, self.used_blocks)


def size_kv(
    specs: Seq[KVSpec],
    block_nbytes: tuple[int, ...],
    context_length: int,
    max_num_seqs: int,
    chunk_tokens: int,
    slack: int,
    cache_nbytes: int | None = None,
    max_cache_nbytes: int | None = None,
) -> KVSizes:
    """KV for max_num_seqs sequences of context_length, and blocks for cache_nbytes more.

    None: as much as CACHED_SEQUENCES such sequences take, max_cache_nbytes at most; full attention then has what its
    sequences leave.
    """
    is_asked = cache_nbytes is not None
    num_blocks = size_groups(specs, context_length, max_num_seqs, chunk_tokens, slack)
    if cache_nbytes is None:
        cache_nbytes = CACHED_SEQUENCES * sum(_product(block_nbytes, num_blocks)) // max_num_seqs
        if max_cache_nbytes is not None:
            cache_nbytes = min(cache_nbytes, max_cache_nbytes)
    cache_blocks = tuple(
        min(cache_nbytes // nbytes, MAX_CACHED_BLOCKS)
        if not spec.is_draft and (is_asked or spec.window is not None)
        else 0
        for spec, nbytes in zip(specs, block_nbytes, strict=True)
    )
    return KVSizes(
        block_nbytes,
        num_blocks,
        tuple(_used(spec, context_length, max_num_seqs, chunk_tokens, slack) for spec in specs),
        cache_blocks,
        cache_nbytes,
    )


def block_sizes(model: Model, backend: Backend, kv_type: str) -> tuple[int, ...]:
    """What a block takes, in all layers of a group."""
    return tuple(
        sum(
            backend.new_kv(1, layer.num_kv_heads, layer.head_dim, kv_type).nbytes
            for layer in (model.layers[index] for index in spec.layers)
        )
        for spec in model.kv_specs
    )


def _used(spec: KVSpec, context_length: int, max_num_seqs: int, chunk_tokens: int, slack: int) -> int:
    """Each sequence has blocks for a whole chunk, but the rows of a step are shared: sliding groups, which trim behind
    every step, never hold as many for all sequences together. Nor do heads that catch up, window behind window: when
    they have, one window is left of it."""
    most = max_num_seqs * blocks_needed(spec, context_length, chunk_tokens, slack)
    if spec.window is None:
        return most
    each = blocks_needed(replace(spec, is_draft=False), context_length, slack, slack)
    shared = chunk_tokens + (spec.window * len(spec.layers) if spec.is_draft else 0)
    return min(max_num_seqs * each + shared // BLOCK_SIZE, most)


def _product(nbytes: Seq[int], counts: Seq[int]) -> tuple[int, ...]:
    return tuple(one * count for one, count in zip(nbytes, counts, strict=True))
