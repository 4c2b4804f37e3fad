"""Runs passes: turns scheduled rows into the flat `ForwardBatch` that a model sees, trunk and heads alike.

Owns the KV tensors and the model. Knows where rows lie; not why they were scheduled, nor what their logits mean.
"""

from collections.abc import Sequence as Seq
from dataclasses import replace

import numpy as np

from stepahead.backends.base import Backend, Floats, Ints, KVBlocks, SampleRows, Tensor
from stepahead.engine.batch import RowSpan, ScheduledBatch, ScheduledRows, attention_rows
from stepahead.engine.kv_cache import SLACK, KVCache
from stepahead.engine.kv_sizes import block_sizes, size_kv
from stepahead.engine.logit_rows import sample_rows
from stepahead.engine.metrics import EngineMetrics
from stepahead.engine.prefix_cache import PrefixCache
from stepahead.engine.request import Sequence
from stepahead.models.cycles import Cycles
from stepahead.models.model import Checkpoint, ForwardBatch, ForwardOutput, Model


class StepInterrupted(Exception):  # noqa: N818 - a signal between engine and checkpoint, no fault of anyone's
    """Raised by a checkpoint to abandon a pass; nothing of the step is committed."""


def never_interrupt() -> None:
    """The checkpoint of a runner without an engine."""


class ModelRunner:
    """One model on one backend, with its KV memory. kv[i] belongs to layer i."""

    def __init__(
        self,
        model: Model,
        backend: Backend,
        kv_cache: KVCache,
        kv: tuple[KVBlocks, ...],
        block_nbytes: tuple[int, ...] | None = None,
        cache_nbytes: int | None = None,
        cycles: Cycles | None = None,
    ) -> None:
        """block_nbytes: what a block of each KV group takes; cache_nbytes: what a prefix cache may, None: no limit;
        cycles: of a device that can run whole draft-verify cycles over these keys and values."""
        assert len(kv) == len(model.layers)
        self.model = model
        self.backend = backend
        self.kv_cache = kv_cache
        self.kv = kv
        self.checkpoint: Checkpoint = never_interrupt  # called between layers; the engine sets its own
        self.metrics = EngineMetrics()
        self.block_nbytes = block_nbytes
        self.cache_nbytes = cache_nbytes
        self.cycles = cycles
        self._has_experts = any(layer.is_moe for layer in model.layers[: model.num_trunk_layers])
        # Of the last trunk pass: entry j is how many experts its rows 0 to j touched, see Backend.routed_experts.
        self.expert_growth: Seq[int] = ()

    @classmethod
    def create(
        cls,
        model: Model,
        backend: Backend,
        kv_type: str,
        context_length: int,
        max_num_seqs: int,
        chunk_tokens: int,
        slack: int = SLACK,
        cache_nbytes: int | None = None,
        max_cache_nbytes: int | None = None,
    ) -> "ModelRunner":
        """A runner with KV for max_num_seqs sequences of context_length, and blocks of a prefix cache: see size_kv.

        Memory is taken as it is touched.
        """
        block_nbytes = block_sizes(model, backend, kv_type)
        sizes = size_kv(
            model.kv_specs, block_nbytes, context_length, max_num_seqs, chunk_tokens, slack, cache_nbytes,
            max_cache_nbytes,
        )  # fmt: skip
        num_blocks = sizes.num_blocks
        kv = tuple(
            backend.new_kv(num_blocks[layer.kv_group], layer.num_kv_heads, layer.head_dim, kv_type)
            for layer in model.layers
        )
        prepare = getattr(model, "prepare", None)  # what can be done before the first request; most models can nothing
        if prepare is not None:
            prepare(kv)
        cycles = getattr(model, "cycles", None)
        return cls(
            model, backend, KVCache(model.kv_specs, num_blocks, slack), kv, block_nbytes, sizes.cache_nbytes,
            None if cycles is None else cycles(kv),
        )  # fmt: skip

    def new_prefix_cache(self) -> PrefixCache:
        """An empty one, for what this runner computes."""
        return PrefixCache(self.kv_cache, self.block_nbytes, self.cache_nbytes)

    def copy_block(self, group: int, old: int, new: int) -> None:
        """In every layer of a KV group."""
        for layer in self.kv_cache.specs[group].layers:
            self.backend.copy_block(self.kv[layer], old, new)

    def forward(self, batch: ScheduledBatch) -> ForwardOutput:
        """The trunk over a step's rows; logits for the rows that verify reads, and their tokens where it can choose."""
        self.backend.begin_step()
        flat = self._flatten(batch)
        output = self._sampled(flat, self.model.forward(flat, self.kv, self.checkpoint))
        if self._has_experts:
            self.expert_growth = self.backend.routed_experts()
        self.metrics.num_trunk_passes += 1
        self.metrics.num_trunk_rows += batch.num_rows
        return output

    def draft_forward(
        self,
        head: int,
        spans: Seq[RowSpan],
        token_ids: Ints,
        hidden: Tensor,
        logit_rows: Ints,
        output_rows: Ints | None = None,
        sample: SampleRows | None = None,
    ) -> ForwardOutput:
        """Head `head` over the spans' rows, one after the other; spans carry the tables of the head's own group.

        The caller has begun the backend's step, so that `hidden` may be an op's result. Of rows that are not among
        output_rows (None: all are), only keys and values are computed. sample: of logit_rows, for a backend that
        chooses tokens.
        """
        assert self.model.draft is not None
        group = self.model.layers[self.model.draft.layers[head]].kv_group
        rows = attention_rows(spans, self.model.kv_specs[group].window)
        assert len(rows.positions) == len(token_ids) == hidden.shape[0]
        attention = tuple(rows if number == group else None for number in range(len(self.model.kv_specs)))
        flat = ForwardBatch(token_ids, rows.positions, attention, logit_rows, output_rows, sample)
        output = self._sampled(flat, self.model.draft_forward(head, flat, hidden, self.kv, self.checkpoint))
        self.metrics.num_draft_passes += 1
        self.metrics.num_draft_rows += len(token_ids)
        return output

    def host_logits(self, output: ForwardOutput) -> Floats:
        """(num_logits, vocab_size) on the host; no rows where a step only runs parts of prompts."""
        if output.logits is None:
            return np.empty((0, self.model.vocab_size), dtype=np.float32)
        return self.backend.download(output.logits)

    def _sampled(self, flat: ForwardBatch, output: ForwardOutput) -> ForwardOutput:
        """The pass with its tokens, if they are wanted and were not chosen on the way."""
        if flat.sample is None or output.logits is None or output.sampled is not None:
            return output
        return replace(output, sampled=self.backend.sample(output.logits, flat.sample, output.logit_ids))

    def _flatten(self, batch: ScheduledBatch) -> ForwardBatch:
        attention = tuple(
            None if spec.is_draft else attention_rows(_spans(batch, group), spec.window)
            for group, spec in enumerate(self.model.kv_specs)
        )
        positions = next(rows.positions for rows in attention if rows is not None)
        token_ids = np.array([token for rows in batch.rows for token in _row_tokens(rows)], dtype=np.int32)
        logit_rows = np.array([row for rows in batch.rows for row in _logit_rows(rows)], dtype=np.int32)
        sample = sample_rows(_wanted(batch)) if self.backend.can_sample else None
        return ForwardBatch(token_ids, positions, attention, logit_rows, sample=sample)


def _spans(batch: ScheduledBatch, group: int) -> list[RowSpan]:
    return [RowSpan(rows.start, rows.end, rows.sequence.kv.tables[group]) for rows in batch.rows]


def _row_tokens(rows: ScheduledRows) -> list[int]:
    tokens = [*rows.sequence.token_ids[rows.start : rows.end], *rows.draft.token_ids]
    assert len(tokens) == rows.end - rows.start
    return tokens


def _wanted(batch: ScheduledBatch) -> list[tuple[Sequence, int]]:
    """Of each row of logits its sequence and the index of the token that it gives."""
    return [
        (rows.sequence, len(rows.sequence.token_ids) + number)
        for rows in batch.rows
        for number in range(rows.num_logits)
    ]


def _logit_rows(rows: ScheduledRows) -> range:
    """The last num_logits rows of a sequence: its last committed token, then its draft."""
    end = rows.first_row + rows.end - rows.start
    return range(end - rows.num_logits, end)
