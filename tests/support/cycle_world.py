"""The world of support/drafting_world.py with a device that runs cycles: host steps take the host's time as well."""

from types import SimpleNamespace

import numpy as np

from stepahead.engine.batch import ScheduledBatch, ScheduledRows
from stepahead.engine.cycle_queue import FinishedCycle
from stepahead.engine.params import Speculation
from stepahead.engine.request import NO_DRAFT, Draft
from stepahead.engine.request import Sequence as EngineSequence
from stepahead.speculative.cycle_planner import CyclePlanner
from support.drafting_world import AUTO, Text, World


class CycleWorld(World):
    """One text at a time."""

    def __init__(self, host_ms: float, has_cycles: bool = True, **options) -> None:
        """host_ms: of a step that the host runs, on top of its passes; in cycles they are hidden, but for the first."""
        super().__init__(**options)
        self.host_ms, self.has_cycles = host_ms, has_cycles
        self.heads.keep_cycle = lambda *_: None
        self.planner = CyclePlanner(self.arbiter, self.heads, clock=lambda: self.now / 1e3)
        self.depths: list[int | None] = []  # of all steps; None: the host's

    def run(self, text: Text, speculation: Speculation = AUTO) -> tuple[float, object]:
        sequence, started = self.start(text, speculation), self.now
        while sequence.num_remaining_tokens > 0:
            depth = self.planner.depth([sequence]) if self.has_cycles else None
            if depth is None or sequence.num_remaining_tokens <= depth:
                self.step([sequence])
                self.depths.append(None)
                continue
            self.now += self.host_ms
            while sequence.num_remaining_tokens > depth and self.planner.goes_on([sequence]):
                self.cycle(sequence, depth)
                self.depths.append(depth)
        self.arbiter.forget(sequence.kv)
        return self.now - started, sequence.stats

    def schedule(self, sequences: list[EngineSequence]) -> ScheduledBatch:
        self.now += self.host_ms
        return super().schedule(sequences)

    def cycle(self, sequence: EngineSequence, depth: int) -> None:
        end = len(sequence.token_ids)
        guesses = [self.guess(sequence, end + step, step) for step in range(depth)]
        draft = Draft(*zip(*guesses, strict=True), "mtp") if depth else NO_DRAFT
        batch = ScheduledBatch((ScheduledRows(sequence, end - 1, end + depth, draft, 0, 0, depth + 1),))
        self.now += max(self.costs[depth + 1] + sum(self.seed.head_ms[:depth]), self.host_ms)
        result = SimpleNamespace(num_accepted=[0], draft_ids=np.zeros((1, depth)), outputs=())
        self.planner.hear(FinishedCycle(batch, (), result))
        self.planner.observe(batch, None, (self.verdict(batch.rows[0]),))
