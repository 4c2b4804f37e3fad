"""Draft-verify cycles, each one recorded unit: implements `models.cycles.Cycles` for one model and its keys and values.

Between two cycles the host fills block tables where they have changed, launches, and has what the cycle did copied, so
that it may be read while the next ones run. Nothing waits but `wait`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from stepahead.backends.base import KVBlocks, SampleRows
from stepahead.backends.cuda.cycle_tensors import MAX_DEPTH
from stepahead.backends.cuda.device import explains_memory
from stepahead.backends.cuda.ops import CudaBackend
from stepahead.backends.cuda.recorded import MAX_ROWS, WIDTHS, next_size
from stepahead.backends.cuda.recorded_cycle import CycleKind, RecordedCycle, RunPass, groups_of
from stepahead.backends.cuda.replay import Recorder
from stepahead.backends.cuda.replayed_pass import NO_ROW, StaticTables
from stepahead.backends.cuda.rows import Rows
from stepahead.models.cycles import CycleResult, CycleStart
from stepahead.models.model import Model

TablesOf = Callable[[tuple[int, ...], int], dict[int, StaticTables]]
"""Of KV groups and a width."""

NUM_BUFFERS = 2


@dataclass(frozen=True, slots=True, eq=False)
class Launched:
    """A cycle that may still run. record: waits for it, see CycleTensors; kept: see CycleState."""

    depth: int
    record: Callable[[], npt.NDArray[np.int32]]
    kept: torch.Tensor

    def wait(self) -> CycleResult:
        record, depth = self.record(), self.depth
        margins = np.ascontiguousarray(record[:, 2 * depth + 2 :]).view(np.float32)
        return CycleResult(
            num_accepted=record[:, 0],
            token_ids=record[:, 1 : depth + 2],
            draft_ids=record[:, depth + 2 : 2 * depth + 2],
            margins=margins,
            hidden=Rows(self.kept[0]),
            outputs=tuple(Rows(rows) for rows in self.kept[1:]),
        )


@explains_memory
class DeviceCycles:
    def __init__(
        self,
        model: Model,
        backend: CudaBackend,
        kv: Sequence[KVBlocks],
        recorder: Recorder,
        run: RunPass,
        tables_of: TablesOf,
        recorded: dict[CycleKind, RecordedCycle],
    ) -> None:
        """recorded: cycles of these keys and values, to be added to."""
        self.device = backend.device
        self._model = model
        self._backend = backend
        self._kv = kv
        self._recorder = recorder
        self._run = run
        self._tables_of = tables_of
        self._recorded = recorded
        self._cycle: RecordedCycle | None = None
        self._tables: dict[int, StaticTables] = {}
        self._buffers: list[torch.Tensor] = []
        self._number = 0

    def can_run(self, num_sequences: int, depth: int, num_blocks: int) -> bool:
        draft = self._model.draft
        if depth > 0 and (draft is None or draft.is_recurrent or depth > min(draft.num_heads, MAX_DEPTH)):
            return False
        return 0 < num_sequences * (depth + 1) <= MAX_ROWS and num_blocks <= WIDTHS[-1]

    def record_ahead(self, num_sequences: int, depth: int) -> None:
        """Of tables as short as any. No keys or values are written: nobody stands anywhere."""
        assert self.can_run(num_sequences, depth, WIDTHS[0])
        self._backend.begin_step()
        self._recorded_cycle(num_sequences, depth, WIDTHS[0])

    def begin(self, starts: Sequence[CycleStart], depth: int, num_blocks: int, sample: SampleRows) -> None:
        assert self.can_run(len(starts), depth, num_blocks)
        self._backend.begin_step()
        cycle = self._recorded_cycle(len(starts), depth, next_size(WIDTHS, num_blocks))
        cycle.fill(starts, sample)
        if self._cycle is not cycle:
            self._cycle, self._tables = cycle, self._tables_for(cycle.kind)
            self._buffers = [torch.empty_like(cycle.state.kept) for _ in range(NUM_BUFFERS)]

    def launch(self, tables: Sequence[Sequence[Sequence[int]]]) -> Launched:
        cycle = self._cycle
        assert cycle is not None, "no cycle has begun"
        self.device.make_current()
        for group, static in self._tables.items():
            static.fill(_padded(tables[group]))
        cycle.replay()
        record = self.device.fetched_later(cycle.state.tensors.record)
        self._number = (self._number + 1) % NUM_BUFFERS
        kept = self._buffers[self._number].copy_(cycle.state.kept)
        return Launched(cycle.kind.depth, record, kept)

    def _recorded_cycle(self, num_sequences: int, depth: int, width: int) -> RecordedCycle:
        kind = CycleKind(num_sequences, depth, width, self._model.draft_vocab if depth else None)
        cycle = self._recorded.get(kind)
        if cycle is None:
            if depth and kind.draft_vocab is None:
                self._model.load_outputs()
            cycle = RecordedCycle(kind, self._model, self._backend, self._tables_for(kind), self._run)
            cycle.record(self._recorder, self._kv)
            self._recorded[kind] = cycle
        return cycle

    def _tables_for(self, kind: CycleKind) -> dict[int, StaticTables]:
        return self._tables_of(groups_of(self._model, kind.depth), kind.width)


def _padded(tables: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    padded = np.full((len(tables), max(len(table) for table in tables)), NO_ROW, np.int32)
    for number, table in enumerate(tables):
        padded[number, : len(table)] = table
    return padded
