"""Draft-verify cycles that a device was given and the host has yet to digest: it is always one ahead.

Where all that run do nothing but decode, and the device can choose their tokens, the next cycle is launched before the
tokens of the last one are known: what becomes text, ends a sequence, or is counted, is done while the device computes.
What ran for a sequence that had ended by then is dropped, as if it had never been drafted.

Owns what was launched and how far blocks are claimed for it. How long drafts are, and what is learnt of them, is the
planner's; what becomes of tokens, the scheduler's.
"""

from collections import deque
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

from stepahead.backends.base import BLOCK_SIZE, Tensor
from stepahead.engine.batch import ScheduledBatch, ScheduledRows
from stepahead.engine.logit_rows import sample_rows
from stepahead.engine.metrics import EngineMetrics
from stepahead.engine.request import NO_DRAFT, Draft, Sequence, Verdict
from stepahead.engine.sampler import is_plain
from stepahead.engine.scheduler import Scheduler
from stepahead.models.cycles import CycleResult, Cycles, CycleStart, LaunchedCycle

MAX_LAUNCHED = 2
"""Cycles that are not digested: the one that is waited for, and the one that runs meanwhile."""

TOKENS_AHEAD = 1024
"""Tokens that block tables have room for before cycles begin anew."""


@dataclass(frozen=True, slots=True, eq=False)
class FinishedCycle:
    """Of the sequences that it brought tokens: what a step of the host's would know of it."""

    batch: ScheduledBatch
    verdicts: tuple[Verdict, ...]
    result: CycleResult


class CyclePlanner(Protocol):
    """Knows what drafting is worth, and the heads (speculative/cycle_planner.py)."""

    def depth(self, sequences: Seq[Sequence]) -> int | None:
        """Draft tokens of each in the cycles to come, 0: none; None: the next step is better the host's."""
        ...

    def start(self, sequence: Sequence, depth: int) -> CycleStart | None:
        """Where its first cycle begins; None: its heads have to catch up first."""
        ...

    def claim(self, sequence: Sequence, depth: int, end: int) -> bool:
        """Blocks for the heads' rows below `end`; False, if there are too few."""
        ...

    def goes_on(self, sequences: Seq[Sequence]) -> bool:
        """Whether another cycle like the last is better than a step of the host's."""
        ...

    def hear(self, finished: FinishedCycle) -> None:
        """Of a cycle whose tokens are not yet the sequences'."""
        ...

    def observe(self, batch: ScheduledBatch, hidden: Tensor, verdicts: Seq[Verdict | None]) -> None:
        """After commit, in the place of Proposer.observe."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class _Launched:
    cycle: LaunchedCycle
    sequences: tuple[Sequence, ...]


class CycleQueue:
    """Of one engine. `next` launches and waits; whoever calls it commits what it gives before the next call."""

    def __init__(self, cycles: Cycles, planner: CyclePlanner, scheduler: Scheduler, metrics: EngineMetrics) -> None:
        self._cycles = cycles
        self._planner = planner
        self._scheduler = scheduler
        self._metrics = metrics
        self._launched: deque[_Launched] = deque()
        self._sequences: tuple[Sequence, ...] = ()  # of the cycles that run
        self._depth = 0
        self._num_blocks = 0  # that their tables have room for
        self._limits: tuple[int, ...] = ()  # of each sequence: no cycle may bring a token at this position
        self._is_stuck = False  # a token has to be chosen by the host

    def next(self) -> FinishedCycle | None:
        """The next cycle that brought somebody tokens; None: an ordinary step is due."""
        try:
            while self._launched or self._begin():
                if self._may_launch():
                    self._launch()
                finished = self._finish(self._launched.popleft())
                if not self._launched:
                    self._end()
                if finished.batch.rows:
                    self._planner.hear(finished)
                    return finished
        except BaseException:
            self.drop()
            raise
        return None

    def observe(self, batch: ScheduledBatch, hidden: Tensor, verdicts: Seq[Verdict | None]) -> None:
        """After commit: what Proposer.observe is told of a step."""
        self._planner.observe(batch, hidden, verdicts)

    def drop(self) -> None:
        """Forget what was launched: nothing of it is committed."""
        self._launched.clear()
        self._end()

    def _begin(self) -> bool:
        """Launch a first cycle, if all that run can do with cycles."""
        sequences, was_stuck = tuple(self._scheduler.running), self._is_stuck
        self._is_stuck = False
        depth = None if was_stuck else self._depth_for(sequences)
        if depth is None:
            return False
        starts = [start for sequence in sequences if (start := self._planner.start(sequence, depth)) is not None]
        if len(starts) < len(sequences):
            return False
        self._sequences, self._depth = sequences, depth
        self._num_blocks = max(map(_num_blocks, sequences))
        self._limits = tuple(map(_limit, sequences, starts))
        if not self._may_launch():
            self._end()
            return False
        sample = sample_rows([(sequence, 0) for sequence in sequences])
        self._cycles.begin(starts, depth, self._num_blocks, sample)
        self._launch()
        return True

    def _depth_for(self, sequences: Seq[Sequence]) -> int | None:
        """None: they need the host, or a cycle would be too large."""
        if not sequences or not self._scheduler.is_settled or not all(map(_is_decided_by_logits, sequences)):
            return None
        depth = self._planner.depth(sequences)
        # While a cycle is digested, sliding groups hold the rows of two.
        if depth is None or MAX_LAUNCHED * (depth + 1) > self._scheduler.chunk_tokens:
            return None
        return depth if self._cycles.can_run(len(sequences), depth, max(map(_num_blocks, sequences))) else None

    def _may_launch(self) -> bool:
        """Whether another cycle may run before anything more is known, and should. If so, its heads have blocks."""
        scheduler = self._scheduler
        if len(self._launched) >= MAX_LAUNCHED or self._is_stuck or tuple(scheduler.running) != self._sequences:
            return False
        if not self._sequences or not scheduler.is_settled or any(each.is_aborted for each in self._sequences):
            return False
        ends = [self._end_of_next(sequence) for sequence in self._sequences]
        if any(end >= limit for end, limit in zip(ends, self._limits, strict=True)):
            return False
        if max(ends) > self._num_blocks * BLOCK_SIZE or not self._planner.goes_on(self._sequences):
            return False
        return all(
            self._planner.claim(sequence, self._depth, end) for sequence, end in zip(self._sequences, ends, strict=True)
        )

    def _end_of_next(self, sequence: Sequence) -> int:
        """Behind the last row that another cycle may run, if all drafts until then are right."""
        return sequence.num_computed_tokens + (len(self._launched) + 1) * (self._depth + 1)

    def _launch(self) -> None:
        for sequence in self._sequences:
            self._scheduler.claim_ahead(sequence, self._end_of_next(sequence))
        num_groups = len(self._sequences[0].kv.tables)
        tables = [[sequence.kv.tables[group] for sequence in self._sequences] for group in range(num_groups)]
        self._launched.append(_Launched(self._cycles.launch(tables), self._sequences))

    def _finish(self, launched: _Launched) -> FinishedCycle:
        """Wait for a cycle; those who have ended meanwhile are left out, and those who could not go on."""
        result = launched.cycle.wait()
        running = set(map(id, self._scheduler.running))
        rows: list[ScheduledRows] = []
        verdicts: list[Verdict] = []
        for number, sequence in enumerate(launched.sequences):
            count = int(result.num_accepted[number])
            if id(sequence) not in running:
                continue
            if count < 0:
                self._is_stuck = True
                continue
            accepted = tuple(map(int, result.draft_ids[number, :count]))
            verdicts.append(Verdict(accepted, int(result.token_ids[number, count])))
            rows.append(self._rows(sequence, number, result))
        if rows:
            self._count(len(launched.sequences))
        return FinishedCycle(ScheduledBatch(tuple(rows)), tuple(verdicts), result)

    def _rows(self, sequence: Sequence, number: int, result: CycleResult) -> ScheduledRows:
        start, num_rows = sequence.num_computed_tokens, self._depth + 1
        draft = NO_DRAFT
        if self._depth:
            margins = tuple(map(float, result.margins[number]))
            draft = Draft(tuple(map(int, result.draft_ids[number])), margins, "mtp")
        return ScheduledRows(
            sequence=sequence,
            start=start,
            end=start + num_rows,
            draft=draft,
            first_row=number * num_rows,
            logits_start=number * num_rows,
            num_logits=num_rows,
        )

    def _count(self, num_sequences: int) -> None:
        num_rows = num_sequences * (self._depth + 1)
        self._metrics.num_trunk_passes += 1
        self._metrics.num_trunk_rows += num_rows
        self._metrics.num_draft_passes += self._depth
        self._metrics.num_draft_rows += self._depth * num_rows

    def _end(self) -> None:
        """No cycle is on its way: blocks claimed for more are given back with the next commit."""
        for sequence in self._sequences:
            sequence.kv.num_claimed = 0
        self._sequences = ()


def _is_decided_by_logits(sequence: Sequence) -> bool:
    """Nothing but logits and noise decides its tokens, and nobody wants to see the logits."""
    return is_plain(sequence) and sequence.request.params.logprobs is None and not sequence.is_aborted


def _num_blocks(sequence: Sequence) -> int:
    """For all that is wanted of it, or what is to come soon."""
    num_tokens = len(sequence.token_ids) + min(sequence.num_remaining_tokens, TOKENS_AHEAD)
    return -(-num_tokens // BLOCK_SIZE)


def _limit(sequence: Sequence, start: CycleStart) -> int:
    """The first position where no token is wanted, or no more known of a recorded text."""
    limit = len(sequence.token_ids) + sequence.num_remaining_tokens
    recorded = start.recorded
    return limit if recorded is None else min(limit, recorded.start + len(recorded.token_ids))
