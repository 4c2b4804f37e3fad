"""What the passes that a GPU replays take of its memory: graphs, and what their kernels read and write.

A family of graphs (the trunk, each head, whole cycles) has a pool of its own. What a pass computes on its way gives way
to the next one's; its results stay. So the passes are run on a meter, in the order in which they are recorded, at their
worst: for each number of rows and each width of block tables up to the context's, and the tokens chosen there. Passes
whose tokens the host chooses are others again, and not counted: they are seldom.

Must not know: how a pass is recorded.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import numpy as np

from stepahead.backends.base import BLOCK_SIZE, AttentionRows, KVBlocks
from stepahead.backends.cuda.recorded import HEAD_ROWS, MAX_ROWS, NUM_ROWS, TRUNK_ROWS, WIDTHS, later, next_size
from stepahead.gguf import QuantType
from stepahead.memory.device_meter import DeviceMeter, DeviceRows, Held
from stepahead.memory.meter import MeterMatrix
from stepahead.memory.passes import EnoughLayers, layer_kinds
from stepahead.models.draft_vocab import CAPACITY
from stepahead.models.model import ForwardBatch, LayerSpec, Model

NODE_NBYTES = 32 << 10
"""Of a launch in a graph, for the driver. Not measured here: where others say what graphs of some hundred launches took
beside their pools, it is 24 to 64 KB a launch, the more the older the driver."""

RING = 32
"""Rows that a recorded cycle keeps of each sequence and level."""

HAND_ON_LAUNCHES = 5
"""In a cycle, beside those of a pass: for its inputs, and for what it leaves to the next one."""


@dataclass(frozen=True, slots=True)
class RecordedPasses:
    """Of a model with certain settings. Equal ones take as much."""

    num_widths: int  # of block tables
    num_sequences: int  # that recorded passes can have, at most
    num_frequent: int | None  # ids of heads' shortlist; None: there is none
    has_cycles: bool  # False: the host takes part in each pass

    @classmethod
    def of(
        cls, context_length: int, max_num_seqs: int, num_frequent: int | None, has_cycles: bool = True
    ) -> "RecordedPasses":
        num_blocks = min(-(-context_length // BLOCK_SIZE), WIDTHS[-1])
        widest = next_size(WIDTHS, num_blocks)
        return cls(WIDTHS.index(widest) + 1, min(max_num_seqs, MAX_ROWS), num_frequent, has_cycles)

    def nbytes(self, model: Model, meter: DeviceMeter) -> int:
        recorder = _Recorder(self, model, meter)
        heads = list(model.layers[model.num_trunk_layers :]) if model.draft is not None else []
        tables = 4 * MAX_ROWS * sum(WIDTHS[: self.num_widths]) * len(model.kv_specs)
        sizes = dict.fromkeys(map(_sizes, heads), 0)
        for head, spec in enumerate(heads):
            if not sizes[_sizes(spec)]:
                sizes[_sizes(spec)] = recorder.family(recorder.head_passes(head))
        total = tables + sum(sizes[_sizes(spec)] for spec in heads)
        if self.has_cycles:
            total += recorder.cycles()
        return total + recorder.family(recorder.trunk_passes()) + recorder.warm_ups()

    def hand_over_nbytes(self, model: Model) -> int:
        """For each layer whose experts the host computes: rows and results that stay."""
        return self.num_widths * sum(NUM_ROWS) * 2 * 4 * model.hidden_size

    def cycles(self, model: Model) -> list[tuple[int, int]]:
        """Numbers of sequences, and of heads that draft, of which there is a recorded cycle each."""
        draft = model.draft
        depths = 1 if draft is None or draft.is_recurrent else draft.num_heads + 1
        every = ((count, depth) for count in range(1, self.num_sequences + 1) for depth in range(depths))
        return [(count, depth) for count, depth in every if count * (depth + 1) <= MAX_ROWS]


class _Recorder:
    def __init__(self, wanted: RecordedPasses, model: Model, meter: DeviceMeter) -> None:
        self._wanted = wanted
        self._widths = WIDTHS[: wanted.num_widths]
        self._model = model
        self._meter = meter
        layers = ((layer.num_kv_heads, layer.head_dim) for layer in model.layers)
        self._kv = cast("tuple[KVBlocks, ...]", tuple(meter.new_kv(1, *sizes, "f16") for sizes in layers))

    def family(self, passes: Iterable[list[Held]]) -> int:
        """Bytes of the pool and of the graphs. Each pass gives the results that it keeps."""
        meter = self._meter
        meter.new_pool()
        before = meter.num_launches
        kept = list(passes)
        nbytes = meter.arena.peak + NODE_NBYTES * (meter.num_launches - before)
        del kept
        return nbytes

    def warm_ups(self) -> int:
        """What runs before a pass is recorded takes memory elsewhere; none of it is kept."""
        self._meter.new_pool()
        for width in self._widths:
            self._trunk(MAX_ROWS, width)
        return self._meter.arena.peak

    def trunk_passes(self) -> Iterator[list[Held]]:
        for width in self._widths:
            for num_rows in (*TRUNK_ROWS, *later(TRUNK_ROWS)):
                yield self._trunk(num_rows, width)

    def head_passes(self, head: int) -> Iterator[list[Held]]:
        for width in self._widths:
            for num_rows in (*HEAD_ROWS, *later(HEAD_ROWS)):
                most = min(num_rows, next_size(NUM_ROWS, self._wanted.num_sequences))
                for num_logits in (count for count in (0, *NUM_ROWS) if count <= most):
                    yield self._head(head, num_rows, num_logits, width)

    def cycles(self) -> int:
        """Their passes leave nothing in the pool, so that the most rows decide how large it is; but each cycle has a
        graph of all its passes, and keeps where its sequences stand."""
        model, meter, cycles = self._model, self._meter, self._wanted.cycles(self._model)
        meter.new_pool()
        trunk = head = 0
        for width in self._widths:
            for num_rows in sorted({count * (depth + 1) for count, depth in cycles}):
                start = meter.num_launches
                self._trunk(num_rows, width)
                trunk = meter.num_launches - start
                if any(depth for _, depth in cycles):
                    self._head(0, num_rows, num_rows, width)
                    head = meter.num_launches - start - trunk
        launches = sum(trunk + depth * head + (depth + 1) * HAND_ON_LAUNCHES for _, depth in cycles)
        rows = sum((depth + 1) * count * (RING + 3 * (depth + 1)) for count, depth in cycles)
        return meter.arena.peak + len(self._widths) * (NODE_NBYTES * launches + 4 * model.hidden_size * rows)

    def _trunk(self, num_rows: int, width: int) -> list[Held]:
        """A layer of each kind, for the others take what these have left; then what comes behind the last."""
        model, meter = self._model, self._meter
        kinds = layer_kinds(model)
        starts: list[int] = []

        def note() -> None:
            starts.append(meter.num_launches)
            if len(starts) > 1 + max(kinds.index(kind) for kind in set(kinds)):
                raise EnoughLayers

        with suppress(EnoughLayers):
            model.forward(self._batch(num_rows, width), self._kv, note)
        starts.append(meter.num_launches)
        each = {kind: starts[number + 1] - starts[number] for number, kind in enumerate(kinds[: len(starts) - 1])}
        meter.num_launches = starts[0] + sum(each[kind] for kind in kinds)
        return self._with_logits(meter.zeros(num_rows, model.hidden_size), num_rows, None)

    def _head(self, head: int, num_rows: int, num_logits: int, width: int) -> list[Held]:
        meter = self._meter
        given = meter.zeros(num_rows, self._model.hidden_size)  # not of the pool, but as large there
        batch = self._batch(num_rows, width)
        output = self._model.draft_forward(head, batch, given, self._kv, lambda: None)
        kept = self._with_logits(cast(DeviceRows, output.hidden), num_logits, self._wanted.num_frequent)
        return [meter.values(given), *kept]

    def _with_logits(self, hidden: DeviceRows, num_logits: int, num_frequent: int | None) -> list[Held]:
        model, meter = self._model, self._meter
        kept = [meter.values(hidden)]
        if num_logits == 0:
            return kept
        chosen = meter.gather_rows(hidden, np.zeros(num_logits, np.int32))
        normed = meter.rms_norm(chosen, chosen, 0.0)
        if num_frequent is None:
            logits = meter.linear(normed, MeterMatrix(QuantType.Q8_0, (model.vocab_size, model.hidden_size)))
        else:
            counts = num_frequent, min(CAPACITY, model.vocab_size - num_frequent)
            parts = (MeterMatrix(QuantType.Q8_0, (count, model.hidden_size)) for count in counts)
            logits = meter.concat(*meter.linear_many(normed, tuple(parts)))
        return [*kept, meter.values(logits), meter.chosen(logits)]

    def _batch(self, num_rows: int, width: int) -> ForwardBatch:
        zeros = np.zeros(num_rows, np.int32)
        rows = AttentionRows(zeros, zeros, zeros, np.zeros((MAX_ROWS, width), np.int32), zeros)
        return ForwardBatch(zeros, zeros, (rows,) * len(self._model.kv_specs), np.zeros(0, np.int32))


def _sizes(spec: LayerSpec) -> tuple[object, ...]:
    """Of a head: those with the same take as much."""
    return spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.window, spec.is_moe
