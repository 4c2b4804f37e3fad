"""One kind of cycle, recorded once: the passes of its heads, the trunk's, and between them what hands rows and tokens
on, all launched with nobody waiting."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from stepahead.backends.base import KVBlocks, SampleRows
from stepahead.backends.cuda.cycle_state import CycleState
from stepahead.backends.cuda.kernels.cycle_rows import TRUNK, cycle_rows
from stepahead.backends.cuda.kernels.gather_rows import gather_rows
from stepahead.backends.cuda.kernels.judge import judge
from stepahead.backends.cuda.kernels.keep_draft import keep_draft
from stepahead.backends.cuda.kernels.keep_rows import keep_rows
from stepahead.backends.cuda.ops import CudaBackend
from stepahead.backends.cuda.replay import Recorder, Replay
from stepahead.backends.cuda.replayed_pass import Kind, Outputs, ReplayedPass, StaticTables
from stepahead.models.cycles import CycleStart
from stepahead.models.draft_vocab import DraftVocab
from stepahead.models.model import Model

RunPass = Callable[[ReplayedPass, Sequence[KVBlocks]], Outputs]
"""Launches a pass on its inputs, tokens included."""

FAMILY = "cycles"


@dataclass(frozen=True, slots=True)
class CycleKind:
    """What decides which launches a cycle has, and how large they are."""

    num_sequences: int
    depth: int
    width: int  # of block tables
    draft_vocab: DraftVocab | None  # that its heads choose from

    @property
    def num_rows(self) -> int:
        return self.num_sequences * (self.depth + 1)


class RecordedCycle:
    def __init__(
        self, kind: CycleKind, model: Model, backend: CudaBackend, tables: Mapping[int, StaticTables], run: RunPass
    ) -> None:
        """tables: of each KV group that the passes read."""
        self.kind = kind
        self._backend = backend
        self._run_pass = run
        self._tables = tables
        self._vocab_size = model.vocab_size
        self._windows = [spec.window for spec in model.kv_specs]
        self.state = CycleState(backend.device, kind.num_sequences, kind.depth, model.hidden_size)
        heads = [_head_kind(kind, model, head) for head in range(kind.depth)]
        self._heads, self._trunk = (
            [ReplayedPass(each, backend.device, model.hidden_size, tables) for each in kinds]
            for kinds in (heads, [_trunk_kind(kind, model)])
        )
        rows = {"dtype": torch.int32, "device": backend.device.torch}
        self._sources, self._targets = (torch.zeros(kind.num_rows, **rows) for _ in range(2))
        self._replay: Replay | None = None

    def record(self, recorder: Recorder, kv: Sequence[KVBlocks]) -> None:
        """No sequence runs yet: nothing is kept of it."""
        self._replay, _ = recorder.record(lambda: self._run(kv), family=FAMILY)

    def fill(self, starts: Sequence[CycleStart], sample: SampleRows) -> None:
        self.state.fill(starts)
        each_row = np.repeat(np.arange(len(starts)), self.kind.depth + 1)
        for one in self._heads:
            one.fill_sample(sample)
        for one in self._trunk:
            one.fill_sample(_taken(sample, each_row))

    def replay(self) -> None:
        assert self._replay is not None
        self._replay.replay()
        self._backend.experts.begin_step()  # they are counted of no cycle

    def _run(self, kv: Sequence[KVBlocks]) -> None:
        launch, state = self._backend.launch, self.state
        for head, one in enumerate(self._heads):
            assert one.hidden is not None
            self._fill_rows(one, head)
            gather_rows(launch, state.levels[head], self._sources, one.hidden)
            outputs = self._run_pass(one, kv)
            assert outputs.sampled is not None
            keep_rows(launch, outputs.hidden, state.kept[head + 1], self._targets, state.levels[head + 1])
            keep_draft(launch, state.tensors, head, outputs.sampled, self._vocab_size)
        for one in self._trunk:
            self._fill_rows(one, TRUNK)
            outputs = self._run_pass(one, kv)
            assert outputs.sampled is not None
            keep_rows(launch, outputs.hidden, state.kept[0], self._targets, state.levels[0])
            judge(launch, state.tensors, outputs.sampled.token_ids)

    def _fill_rows(self, one: ReplayedPass, head: int) -> None:
        launch, state, inputs = self._backend.launch, self.state.tensors, one.inputs
        for group in one.kind.groups:
            of_group = {name: inputs[f"{name}{group}"] for name in ("first_keys", "slots")}
            tables, window = self._tables[group].arrays.tensors["tables"], self._windows[group]
            cycle_rows(launch, state, head, tables, window, {**inputs, **of_group}, self._sources, self._targets)


def groups_of(model: Model, depth: int) -> tuple[int, ...]:
    """KV groups of the trunk, and of the first heads."""
    heads = {_head_group(model, head) for head in range(depth)}
    return tuple(group for group, spec in enumerate(model.kv_specs) if not spec.is_draft or group in heads)


def _head_group(model: Model, head: int) -> int:
    assert model.draft is not None
    return model.layers[model.draft.layers[head]].kv_group


def _head_kind(kind: CycleKind, model: Model, head: int) -> Kind:
    group = (_head_group(model, head),)
    return Kind(head, kind.num_rows, kind.num_sequences, group, kind.width, True, kind.draft_vocab)


def _trunk_kind(kind: CycleKind, model: Model) -> Kind:
    return Kind(None, kind.num_rows, kind.num_rows, groups_of(model, 0), kind.width, True, None)


def _taken(sample: SampleRows, rows: np.ndarray) -> SampleRows:
    names = ("seeds", "positions", "temperatures", "top_k", "top_p", "min_p", "is_plain")
    return replace(sample, **{name: getattr(sample, name)[rows] for name in names})
