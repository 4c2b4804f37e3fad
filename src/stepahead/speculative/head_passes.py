"""Runs the heads: what must be caught up first, then one pass a draft token, for all sequences together.

Owns the rows of a pass and where their inputs come from. Which token a head's logits give is the caller's business;
so are requests, drafts and statistics of acceptance.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from stepahead.backends.base import BLOCK_SIZE, Backend, Floats, Ints, Tensor
from stepahead.engine.batch import RowSpan
from stepahead.engine.kv_cache import KVCache
from stepahead.engine.request import Sequence
from stepahead.models.model import DraftSpec, ForwardOutput, Model
from stepahead.speculative.head_cache import HeadCache

MAX_ROWS = 512
"""Rows of a catch-up pass, all sequences together: bounds scratch memory, and is plenty for a kernel to be busy."""


class HeadRunner(Protocol):
    """The part of engine.runner.ModelRunner that drafting needs."""

    @property
    def model(self) -> Model: ...
    @property
    def backend(self) -> Backend: ...
    @property
    def kv_cache(self) -> KVCache: ...

    def draft_forward(
        self, head: int, spans: Seq[RowSpan], token_ids: Ints, hidden: Tensor, logit_rows: Ints
    ) -> ForwardOutput: ...


@dataclass(slots=True, eq=False)
class DraftJob:
    """One sequence's drafting in one round. The last committed token stands at `position`."""

    sequence: Sequence
    cache: HeadCache
    position: int
    depth: int  # draft tokens still aimed at
    token_ids: list[int] = field(default_factory=list)  # drafted so far
    links: Tensor | None = None  # (max_depth, hidden) output of pass k's last row, where draft rows are not kept

    def tokens(self, start: int, end: int) -> list[int]:
        """Committed, then drafted."""
        first_drafted = self.position + 1
        drafted = self.token_ids[max(start - first_drafted, 0) : max(end - first_drafted, 0)]
        return [*self.sequence.token_ids[start:end], *drafted]


Choose = Callable[[DraftJob, Floats, Ints | None], None]
"""Told the logits of a job's newest row, and the ids of their columns unless they are the whole vocabulary's; appends a
token to the job's, or lowers its depth."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows start .. end - 1 of one job in one pass of a head."""

    job: DraftJob
    start: int
    end: int


class HeadPasses:
    """Passes over the heads of one model. Head k's rows stand in the KV group of its own layer."""

    def __init__(self, runner: HeadRunner, spec: DraftSpec, max_rows: int = MAX_ROWS) -> None:
        self._runner = runner
        self._spec = spec
        self._max_rows = max_rows
        self._groups = [runner.model.layers[layer].kv_group for layer in spec.layers]

    def run(self, jobs: list[DraftJob], choose: Choose) -> None:
        """Draft for all jobs. A job whose blocks cannot be had drafts less, or nothing: its depth says so."""
        for job in jobs:
            job.cache.prepare(job.position, self._num_heads(job))
        self._catch_up(jobs)
        for job in jobs:
            self._claim_drafts(job)
        num_passes = max((job.depth for job in jobs), default=0)
        for step in range(num_passes):
            active = [job for job in jobs if job.depth > step]
            if active:
                self._draft(step, active, choose)
        for job in jobs:
            window = self._spec.window
            # No later row of a head that ran stands before position + 1; slack keeps what a rollback may ask for.
            if window is not None:
                self._trim(job, job.position + 2 - window - self._runner.kv_cache.slack)

    def _num_heads(self, job: DraftJob) -> int:
        return min(job.depth, self._spec.num_heads)

    def _lag(self, job: DraftJob) -> int:
        """Committed rows, the last one included, that the most backward of a job's heads has to run."""
        next_rows = job.cache.next_row[: self._num_heads(job)]
        return job.position + 1 - min(next_rows, default=job.position + 1)

    def _catch_up(self, jobs: Seq[DraftJob]) -> None:
        """Run whatever is more than one pass can take, a stretch at a time through all heads.

        Stretch by stretch, not head by head: keys that no later row sees are given back on the way.
        """
        while sum(self._lag(job) for job in jobs) > self._max_rows:
            stretches: list[tuple[DraftJob, int]] = []
            room = self._max_rows
            for job in jobs:
                start = job.position + 1 - self._lag(job)
                end = min(start + room, job.position)
                if end > start and self._claim(job, start, end):
                    stretches.append((job, end))
                    room -= end - start
            if not stretches:
                break
            self._run_stretches(stretches)
        # Whoever found no blocks would now run all it lacks in one pass.
        for job in jobs:
            if self._lag(job) > self._max_rows:
                job.depth = 0

    def _run_stretches(self, stretches: Seq[tuple[DraftJob, int]]) -> None:
        for head in range(self._spec.num_heads):
            rows = [
                _Rows(job, job.cache.next_row[head], end)
                for job, end in stretches
                if head < job.depth and job.cache.next_row[head] < end
            ]
            if rows:
                self._pass(head, rows, with_logits=False)
        if self._spec.window is not None:
            for job, end in stretches:
                self._trim(job, end - self._spec.window + 1)

    def _draft(self, step: int, jobs: Seq[DraftJob], choose: Choose) -> None:
        """Pass `step` of a round: the rows a head still lacks and those of the draft so far."""
        head = min(step, self._spec.num_heads - 1)
        rows = [
            _Rows(
                job,
                job.position + step if self._is_recurring(step) else job.cache.next_row[head],
                job.position + step + 1,
            )
            for job in jobs
        ]
        logits, ids = self._pass(head, rows, with_logits=True)
        for job, row in zip(jobs, logits, strict=True):
            choose(job, row, ids)

    def _is_recurring(self, step: int) -> bool:
        return self._spec.is_recurrent and step > 0

    def _pass(self, head: int, rows: Seq[_Rows], with_logits: bool) -> tuple[Floats, Ints | None]:
        """One pass of one head; its rows count as run only when it is complete, for it may be abandoned."""
        backend, group = self._runner.backend, self._groups[head]
        counts = np.array([part.end - part.start for part in rows], dtype=np.int32)
        firsts = np.cumsum(counts, dtype=np.int32) - counts
        spans = [
            RowSpan(part.start, part.end, part.job.sequence.kv.tables[group], part.job.cache.first_valid[head])
            for part in rows
        ]
        token_ids = np.array(
            [token for part in rows for token in part.job.tokens(part.start, part.end)], dtype=np.int32
        )
        # Memory of its own: what an op returns may be recycled when the pass begins.
        hidden = backend.zeros(int(counts.sum()), self._runner.model.hidden_size)
        for part, first in zip(rows, firsts, strict=True):
            self._read_inputs(head, part, hidden, int(first))
        logit_rows = firsts + counts - 1 if with_logits else np.empty(0, dtype=np.int32)
        output = self._runner.draft_forward(head, spans, token_ids, hidden, logit_rows)
        for part, first in zip(rows, firsts, strict=True):
            self._keep_outputs(head, part, output.hidden, int(first))
        if output.logits is None:
            return np.empty((0, self._runner.model.vocab_size), dtype=np.float32), None
        return backend.download(output.logits), output.logit_ids

    def _read_inputs(self, head: int, rows: _Rows, hidden: Tensor, first: int) -> None:
        """Fill hidden[first ..] with the row p - 1 of the level that head reads, for each row p."""
        job, cache = rows.job, rows.job.cache
        if cache.is_chained:
            cache.levels[head].copy(rows.start - 1, rows.end - 1, hidden, first)
            return
        drafted = max(rows.start, job.position + 1)  # the first row that is not the trunk's to feed
        if rows.start < drafted:
            last = min(rows.end, drafted)
            cache.levels[0].copy(rows.start - 1, last - 1, hidden, first)
        if rows.end > drafted:
            assert job.links is not None
            links = np.arange(drafted - job.position - 1, rows.end - job.position - 1, dtype=np.int32)
            targets = np.arange(first + drafted - rows.start, first + rows.end - rows.start, dtype=np.int32)
            backend = self._runner.backend
            backend.scatter_rows(hidden, targets, backend.gather_rows(job.links, links))

    def _keep_outputs(self, head: int, rows: _Rows, hidden: Tensor, first: int) -> None:
        job, cache, num_rows = rows.job, rows.job.cache, rows.end - rows.start
        head_rows = job.sequence.stats.head_rows
        head_rows.extend([0] * (self._spec.num_heads - len(head_rows)))
        head_rows[head] += num_rows
        if cache.is_chained:
            cache.next_row[head] = rows.end
            if head + 1 < len(cache.levels):
                cache.levels[head + 1].store(rows.start, hidden, first, num_rows)
            return
        # Draft rows will be run again, from the trunk's rows: only committed ones count.
        cache.next_row[head] = min(rows.end, job.position + 1)
        step = rows.end - job.position - 1
        if step >= 0:
            backend = self._runner.backend
            if job.links is None:
                job.links = backend.zeros(self._spec.max_depth, self._runner.model.hidden_size)
            last = np.array([first + num_rows - 1], dtype=np.int32)
            backend.scatter_rows(job.links, np.array([step], dtype=np.int32), backend.gather_rows(hidden, last))

    def _claim_drafts(self, job: DraftJob) -> None:
        """Blocks for the whole draft, or for as much of it as there are blocks."""
        start = job.position + 1 - self._lag(job)
        while job.depth and not self._claim(job, start, job.position + job.depth):
            job.depth -= 1

    def _claim(self, job: DraftJob, start: int, end: int) -> bool:
        groups = sorted({self._groups[head] for head in range(self._num_heads(job))})
        return all(self._runner.kv_cache.claim(job.sequence.kv, group, start, end) for group in groups)

    def _trim(self, job: DraftJob, first_kept: int) -> None:
        if first_kept // BLOCK_SIZE <= min(job.cache.trimmed) // BLOCK_SIZE:
            return  # no whole block more
        for group in sorted(set(self._groups)):
            self._runner.kv_cache.trim(job.sequence.kv, group, first_kept)
        for head in range(self._spec.num_heads):
            job.cache.trim(head, first_kept)
