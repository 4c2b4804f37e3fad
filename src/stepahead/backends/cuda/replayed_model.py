"""A model whose passes of few rows are replayed instead of launched kernel by kernel.

Launching takes the host longer than computing takes the device: some five hundred kernels a step. Implements `Model`
around one; what it gives has the bits that the model itself gives, and is written over by the next pass of the trunk,
or of the same head: whoever keeps hidden rows, logits or tokens beyond that copies them.
"""

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from stepahead.backends.base import AttentionRows, KVBlocks, SampleRows
from stepahead.backends.cuda.device import explains_memory
from stepahead.backends.cuda.device_cycles import DeviceCycles
from stepahead.backends.cuda.kernels.pad_rows import pad_rows
from stepahead.backends.cuda.kernels.sample import sample
from stepahead.backends.cuda.ops import CudaBackend
from stepahead.backends.cuda.recorded import HEAD_ROWS, MAX_ROWS, NUM_ROWS, TRUNK_ROWS, WIDTHS, next_size
from stepahead.backends.cuda.recorded_cycle import CycleKind, RecordedCycle
from stepahead.backends.cuda.replay import new_recorder
from stepahead.backends.cuda.replayed_pass import NO_ROW, Kind, Outputs, ReplayedPass, StaticTables
from stepahead.backends.cuda.rows import Rows
from stepahead.backends.cuda.sampling import SampledRows
from stepahead.models.draft_vocab import DraftVocab
from stepahead.models.model import Checkpoint, ForwardBatch, ForwardOutput, Model


@explains_memory
class ReplayedModel:
    """Everything that is not a pass is the model's own."""

    def __init__(self, model: Model, backend: CudaBackend) -> None:
        self._model = model
        self._backend = backend
        self.device = backend.device
        self._recorder = new_recorder(backend.device, backend.launch)
        # What was recorded wrote into these keys and values, and goes with them.
        self._passes: WeakKeyDictionary[KVBlocks, dict[Kind, ReplayedPass]] = WeakKeyDictionary()
        self._cycles: WeakKeyDictionary[KVBlocks, dict[CycleKind, RecordedCycle]] = WeakKeyDictionary()
        self._tables: dict[tuple[int, int], StaticTables] = {}  # by KV group and width

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    @property
    def draft_vocab(self) -> DraftVocab | None:
        return self._model.draft_vocab

    @draft_vocab.setter
    def draft_vocab(self, vocab: DraftVocab | None) -> None:
        self._model.draft_vocab = vocab

    @property
    def num_recorded(self) -> int:
        return sum(len(passes) for passes in self._passes.values())

    def prepare(self, kv: Sequence[KVBlocks]) -> None:
        """Record what is most likely needed before somebody waits for it. No keys or values are written."""
        if self._backend.device.is_interpreted:
            return  # where it would take long, and recording takes no longer than launching
        for count in TRUNK_ROWS:
            self.record_ahead(None, count, kv)
            self._backend.routed_experts()  # asked for after each pass of the trunk, by a kernel of its own
        num_heads = self._model.draft.num_heads if self._model.draft is not None else 0
        for head in range(num_heads):
            for count in HEAD_ROWS:
                self.record_ahead(head, count, kv)
        cycles = self.cycles(kv)
        if cycles is not None:
            for depth in range(num_heads, -1, -1):  # the most rows first, too
                if cycles.can_run(1, depth, WIDTHS[0]):
                    cycles.record_ahead(1, depth)

    def record_ahead(self, head: int | None, num_rows: int, kv: Sequence[KVBlocks]) -> None:
        """A pass of so many rows that choose tokens: of the trunk all, of a head the last."""
        batch = _nobody(self._model, head, num_rows)
        kind = self._kind(head, batch)
        assert kind is not None
        self._backend.begin_step()
        hidden = None if head is None else self._backend.zeros(num_rows, self._model.hidden_size)
        self._run(kind, batch, kv, hidden, num_real=0)

    def forward(self, batch: ForwardBatch, kv: Sequence[KVBlocks], checkpoint: Checkpoint) -> ForwardOutput:
        kind = self._kind(None, batch)
        if kind is None:
            return self._model.forward(batch, kv, checkpoint)
        checkpoint()
        outputs, num_logits = self._run(kind, batch, kv, None).outputs, len(batch.logit_rows)
        return ForwardOutput(
            None if outputs.logits is None else Rows(outputs.logits[:num_logits]),
            Rows(outputs.hidden[: len(batch.token_ids)]),
            sampled=_first(outputs.sampled, num_logits),
        )

    def draft_forward(
        self, head: int, batch: ForwardBatch, hidden: Rows, kv: Sequence[KVBlocks], checkpoint: Checkpoint
    ) -> ForwardOutput:
        kind = self._kind(head, batch)
        if kind is None:
            return self._model.draft_forward(head, batch, hidden, kv, checkpoint)
        checkpoint()
        outputs, num_logits = self._run(kind, batch, kv, hidden).outputs, len(batch.logit_rows)
        return ForwardOutput(
            None if outputs.logits is None else Rows(outputs.logits[:num_logits]),
            self._wanted(outputs.hidden, batch),
            outputs.logit_ids,
            _first(outputs.sampled, num_logits),
        )

    def cycles(self, kv: Sequence[KVBlocks]) -> DeviceCycles | None:
        """None: the host takes part in every pass of the trunk."""
        if self._backend.host_experts.are_used:
            return None
        recorded = self._cycles.setdefault(kv[0], {})
        return DeviceCycles(self._model, self._backend, kv, self._recorder, self._record, self._tables_of, recorded)

    def _kind(self, head: int | None, batch: ForwardBatch) -> Kind | None:
        """None: it is not replayed."""
        num_rows, num_logits = len(batch.token_ids), len(batch.logit_rows)
        if not 0 < num_rows <= MAX_ROWS or (batch.output_rows is not None and len(batch.output_rows) == 0):
            return None
        groups = tuple(group for group, rows in enumerate(batch.attention) if rows is not None)
        width = max(batch.attention[group].block_tables.shape[1] for group in groups)  # type: ignore[union-attr]
        if width > WIDTHS[-1]:
            return None
        padded = next_size(NUM_ROWS, num_rows)
        return Kind(
            head=head,
            num_rows=padded,
            # Of the trunk all rows have logits, or none: others are seldom, and the output matrix is read once anyway.
            num_logits=padded if head is None and num_logits else next_size((0, *NUM_ROWS), num_logits),
            groups=groups,
            width=next_size(WIDTHS, width),
            is_sampled=batch.sample is not None and num_logits > 0,
            draft_vocab=self._model.draft_vocab if head is not None and num_logits else None,
        )

    def _run(
        self, kind: Kind, batch: ForwardBatch, kv: Sequence[KVBlocks], hidden: Rows | None, num_real: int | None = None
    ) -> ReplayedPass:
        """num_real: rows that are somebody's, the first ones; without it all of the batch."""
        backend = self._backend
        passes = self._passes.setdefault(kv[0], {})
        known = passes.get(kind)
        tables = self._tables_of(kind.groups, kind.width)
        one = known or ReplayedPass(kind, backend.device, self._model.hidden_size, tables)
        one.fill(batch)
        if hidden is not None:
            assert one.hidden is not None
            pad_rows(backend.launch, hidden.values, one.hidden)
        if known is None and kind.head is not None and kind.num_logits and kind.draft_vocab is None:
            self._model.load_outputs()
        with backend.host_experts.replaying(len(batch.token_ids) if num_real is None else num_real):
            if known is None:
                one.keep(*self._recorder.record(lambda: self._record(one, kv), family=kind.head))
                passes[kind] = one
            else:
                one.replay()
        backend.experts.replayed(one.outputs.num_expert_layers, len(batch.token_ids))
        return one

    def _record(self, one: ReplayedPass, kv: Sequence[KVBlocks]) -> Outputs:
        backend = self._backend
        backend.experts.begin_step()
        output = one.run(self._model, kv, backend.arrays)
        logits, ids, sampled = _values(output.logits), output.logit_ids, None
        if one.kind.is_sampled and logits is not None:
            columns = None if ids is None else backend.arrays(ids)
            sampled = sample(backend.launch, logits, one.sample_inputs, columns)
        return Outputs(_values(output.hidden), logits, ids, sampled, backend.experts.num_layers)

    def _tables_of(self, groups: Sequence[int], width: int) -> dict[int, StaticTables]:
        for group in groups:
            if (group, width) not in self._tables:
                self._tables[group, width] = StaticTables(self._backend.device, MAX_ROWS, width)
        return {group: self._tables[group, width] for group in groups}

    def _wanted(self, hidden: Any, batch: ForwardBatch) -> Rows:
        """The rows of output_rows, most often the last ones."""
        num_rows, wanted = len(batch.token_ids), batch.output_rows
        if wanted is None:
            return Rows(hidden[:num_rows])
        first = int(wanted[0])
        if int(wanted[-1]) - first + 1 == len(wanted):
            return Rows(hidden[first : first + len(wanted)])
        return self._backend.gather_rows(Rows(hidden[:num_rows]), wanted)


def _nobody(model: Model, head: int | None, num_rows: int) -> ForwardBatch:
    """Rows of no sequence."""
    zeros, none = np.zeros(num_rows, np.int32), np.full(num_rows, NO_ROW, np.int32)
    rows = AttentionRows(zeros, zeros, none, np.full((1, 1), NO_ROW, np.int32), none)
    own = None if head is None or model.draft is None else model.layers[model.draft.layers[head]].kv_group
    attention = tuple(
        rows if (not spec.is_draft if own is None else group == own) else None
        for group, spec in enumerate(model.kv_specs)
    )
    logit_rows = np.arange(num_rows if head is None else 1, dtype=np.int32)
    return ForwardBatch(zeros, zeros, attention, logit_rows, sample=SampleRows.greedy(len(logit_rows)))


def _values(x: Any) -> Any:
    return None if x is None else x.values


def _first(sampled: SampledRows | None, count: int) -> SampledRows | None:
    return None if sampled is None else SampledRows(sampled.token_ids[:count], sampled.leads[:count])
