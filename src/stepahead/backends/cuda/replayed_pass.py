"""One kind of pass of a model, recorded once: its inputs where they stay, and how the rows of a batch get there.

Rows are padded to the number that was recorded. Padding repeats the last row, so that it asks for no expert and no key
that the pass does not read anyway; it keeps nothing: no keys, no values, no count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from stepahead.backends.base import AttentionRows, Ints, KVBlocks, SampleRows
from stepahead.backends.cuda.device import Device
from stepahead.backends.cuda.host_arrays import HostArrays
from stepahead.backends.cuda.replay import Replay
from stepahead.backends.cuda.rows import Rows
from stepahead.backends.cuda.sampling import SampledRows, SampleInputs
from stepahead.backends.cuda.static_arrays import Field, StaticArrays
from stepahead.models.draft_vocab import DraftVocab
from stepahead.models.model import ForwardBatch, ForwardOutput, Model

NO_ROW = -1
"""As a slot: keys and values are not kept. As a sequence: nothing is seen."""

SAMPLED = ("seeds", "positions", "temperatures", "top_k", "top_p", "min_p", "plain")


@dataclass(frozen=True, slots=True)
class Kind:
    """What decides which launches a pass has, and how large they are."""

    head: int | None  # None: the trunk
    num_rows: int  # padded, as num_logits
    num_logits: int
    groups: tuple[int, ...]  # KV groups of its layers
    width: int  # of block tables
    is_sampled: bool
    draft_vocab: DraftVocab | None  # of a head with logits; another has its rows elsewhere


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a pass leaves, all rows with the padding; every replay writes it anew."""

    hidden: torch.Tensor
    logits: torch.Tensor | None
    logit_ids: Ints | None
    sampled: SampledRows | None
    num_expert_layers: int


class StaticTables:
    """The block tables of one KV group, shared by all passes of a width. They change once in 64 tokens."""

    def __init__(self, device: Device, max_sequences: int, width: int) -> None:
        self.arrays = StaticArrays(device, {"tables": ("int32", (max_sequences, width))})
        self._next = np.empty((max_sequences, width), np.int32)
        self._sent: Ints | None = None

    def fill(self, tables: Ints) -> None:
        self._next.fill(NO_ROW)
        self._next[: tables.shape[0], : tables.shape[1]] = tables
        if self._sent is not None and np.array_equal(self._sent, self._next):
            return
        self.arrays.begin()["tables"][...] = self._next
        self.arrays.send()
        self._sent = self._next.copy()


class ReplayedPass:
    """Filled with a batch, recorded with the first one, replayed with the others."""

    def __init__(self, kind: Kind, device: Device, hidden_size: int, tables: Mapping[int, StaticTables]) -> None:
        """tables: of each group."""
        self.kind = kind
        self._tables = {group: tables[group] for group in kind.groups}
        self._arrays = StaticArrays(device, _fields(kind))
        like = {"dtype": torch.float32, "device": device.torch}
        self.hidden = None if kind.head is None else torch.zeros((kind.num_rows, hidden_size), **like)
        self._replay: Replay | None = None
        self._outputs: Outputs | None = None

    @property
    def outputs(self) -> Outputs:
        assert self._outputs is not None
        return self._outputs

    def keep(self, replay: Replay, outputs: Outputs) -> None:
        self._replay, self._outputs = replay, outputs

    def replay(self) -> None:
        assert self._replay is not None
        self._replay.replay()

    def fill(self, batch: ForwardBatch) -> None:
        """All inputs but hidden rows."""
        target = self._arrays.begin()
        _pad(target["token_ids"], batch.token_ids)
        _pad(target["positions"], batch.positions)
        for number, group in enumerate(self.kind.groups):
            rows = batch.attention[group]
            assert rows is not None
            if number == 0:
                _pad(target["sequences"], _seeing(rows, batch.output_rows))
            _pad(target[f"first_keys{group}"], rows.first_keys)
            slots = target[f"slots{group}"]
            slots[: len(rows.slots)], slots[len(rows.slots) :] = rows.slots, NO_ROW
            self._tables[group].fill(rows.block_tables)
        if self.kind.num_logits:
            _pad(target["logit_rows"], batch.logit_rows)
        if self.kind.is_sampled:
            assert batch.sample is not None
            _pad_sample(target, batch.sample)
        self._arrays.send()

    def fill_sample(self, rows: SampleRows) -> None:
        """How tokens are chosen, alone: everything else is written by launches."""
        _pad_sample(self._arrays.begin(), rows)
        self._arrays.send()

    @property
    def inputs(self) -> Mapping[str, torch.Tensor]:
        """By the names of `_fields`."""
        return self._arrays.tensors

    def run(self, model: Model, kv: Sequence[KVBlocks], arrays: HostArrays) -> ForwardOutput:
        """The model's own pass, launched on the inputs."""
        self._arrays.bind(arrays)
        for tables in self._tables.values():
            tables.arrays.bind(arrays)
        batch = self._stand_in(model)
        with arrays.sealed():
            if self.kind.head is None:
                return model.forward(batch, kv, _go_on)
            assert self.hidden is not None
            hidden = Rows(self.hidden)  # new ones each time: they remember what was computed of their values
            return model.draft_forward(self.kind.head, batch, hidden, kv, _go_on)

    @property
    def sample_inputs(self) -> SampleInputs:
        return SampleInputs.of({name: self._arrays.tensors[f"sample_{name}"] for name in SAMPLED})

    def _stand_in(self, model: Model) -> ForwardBatch:
        arrays = self._arrays.stand_ins
        attention: list[AttentionRows | None] = [None] * len(model.kv_specs)
        for group, tables in self._tables.items():
            attention[group] = AttentionRows(
                arrays["positions"],
                arrays[f"first_keys{group}"],
                arrays["sequences"],
                tables.arrays.stand_ins["tables"],
                arrays[f"slots{group}"],
            )
        return ForwardBatch(arrays["token_ids"], arrays["positions"], tuple(attention), arrays["logit_rows"])


def _fields(kind: Kind) -> dict[str, Field]:
    rows, logits = (kind.num_rows,), (kind.num_logits,)
    fields: dict[str, Field] = {}
    if kind.is_sampled:
        fields |= {f"sample_{name}": ("int64", logits) for name in ("seeds", "positions")}
        fields |= {f"sample_{name}": ("float64", logits) for name in ("temperatures", "top_p", "min_p")}
        fields |= {"sample_top_k": ("int32", logits), "sample_plain": ("int8", logits)}
    fields |= dict.fromkeys(("token_ids", "positions", "sequences"), ("int32", rows))
    for group in kind.groups:
        fields |= {f"first_keys{group}": ("int32", rows), f"slots{group}": ("int32", rows)}
    return fields | {"logit_rows": ("int32", logits)}


def _pad(target: npt.NDArray[np.generic], values: npt.NDArray[np.generic]) -> None:
    count = len(values)
    target[:count], target[count:] = values, values[-1]


def _pad_sample(target: Mapping[str, npt.NDArray[np.generic]], rows: SampleRows) -> None:
    _pad(target["sample_seeds"], rows.seeds.view(np.int64))
    _pad(target["sample_positions"], rows.positions)
    _pad(target["sample_temperatures"], rows.temperatures)
    _pad(target["sample_top_k"], rows.top_k)
    _pad(target["sample_top_p"], rows.top_p)
    _pad(target["sample_min_p"], rows.min_p)
    _pad(target["sample_plain"], rows.is_plain)


def _seeing(rows: AttentionRows, output_rows: Ints | None) -> Ints:
    """Sequences of the rows; those whose output nobody wants see nothing, for their keys may be gone."""
    if output_rows is None:
        return rows.sequences
    sequences = np.full_like(rows.sequences, NO_ROW)
    sequences[output_rows] = rows.sequences[output_rows]
    return sequences


def _go_on() -> None:
    """Of a pass that is recorded no layer can be the last: whoever wants to stop is asked before."""
