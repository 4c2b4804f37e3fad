"""Runs the heads: what must be caught up first, then one pass a draft token, for all sequences together.

Owns the rows of a pass and where their inputs come from. Which token a head's logits give is the caller's business;
so are requests, drafts and statistics of acceptance.
"""

import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np

from stepahead.backends.base import BLOCK_SIZE, MAX_REMEMBERED, Backend, Ints, SampleRows, Tensor
from stepahead.engine.batch import RowSpan
from stepahead.engine.kv_cache import KVCache
from stepahead.engine.logit_rows import LogitRows, sample_rows
from stepahead.models.model import DraftSpec, ForwardOutput, Model
from stepahead.speculative.draft_job import DraftJob

MAX_ROWS = 512
"""Rows of a catch-up pass, all sequences together: bounds scratch memory, and is plenty for a kernel to be busy."""

MERGED_ROWS = 64
"""Rows that a head may lag and yet draft: they ride along in the draft pass, which reads the weights anyway."""

FREE_ROWS = 16
"""Rows whose outputs a draft pass computes on the way though it has no use for them: a longer draft may."""


class HeadRunner(Protocol):
    """The part of engine.runner.ModelRunner that drafting needs."""

    @property
    def model(self) -> Model: ...
    @property
    def backend(self) -> Backend: ...
    @property
    def kv_cache(self) -> KVCache: ...

    def draft_forward(
        self,
        head: int,
        spans: Seq[RowSpan],
        token_ids: Ints,
        hidden: Tensor,
        logit_rows: Ints,
        output_rows: Ints | None = None,
        sample: SampleRows | None = None,
    ) -> ForwardOutput: ...


Choose = Callable[[DraftJob, LogitRows, int, Ints | None], None]
"""Told the logits of a pass and which row of them is a job's newest, and the ids of their columns unless they are the
whole vocabulary's; appends a token to the job's, and may set its depth: the job goes on while it has fewer tokens, up
to the depth it began with."""

OnPass = Callable[[int, int, int, float], None]
"""Told of every completed pass: head, rows, rows of logits, seconds."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows start .. end - 1 of one job in one pass of a head; outputs from first_output on are computed."""

    job: DraftJob
    start: int
    end: int
    first_output: int  # start to end


def _output_rows(rows: Seq[_Rows], ends: Seq[int]) -> Ints | None:
    """Numbers of the rows whose output is computed; None: all."""
    if all(part.first_output == part.start for part in rows):
        return None
    return np.concatenate(
        [
            np.arange(end - (part.end - part.first_output), end, dtype=np.int32)
            for part, end in zip(rows, ends, strict=True)
        ]
    )


def _sample_rows(rows: Seq[_Rows]) -> SampleRows:
    """Each job's next token."""
    return sample_rows(
        [(part.job.sequence, len(part.job.sequence.token_ids) + len(part.job.token_ids)) for part in rows]
    )


def _ignore(head: int, num_rows: int, num_logits: int, seconds: float) -> None:
    pass


class HeadPasses:
    """Passes over the heads of one model. Head k's rows stand in the KV group of its own layer."""

    def __init__(
        self, runner: HeadRunner, spec: DraftSpec, max_rows: int = MAX_ROWS, merged_rows: int = MERGED_ROWS
    ) -> None:
        self._runner = runner
        self._spec = spec
        self._max_rows = max_rows
        self._merged_rows = min(merged_rows, max_rows)
        self.on_pass: OnPass = _ignore
        self._groups = [runner.model.layers[layer].kv_group for layer in spec.layers]

    def run(self, jobs: list[DraftJob], choose: Choose, takes_chosen: bool = False) -> None:
        """Draft for all jobs, at once: heads that lag are caught up with in full before the first token.

        A job whose blocks cannot be had drafts less, or nothing: its depth says so. takes_chosen: `choose` takes the
        tokens that the backend has chosen, so that a backend which can need not wait for it between two passes.
        """
        while self.catch_up(jobs, self._max_rows):
            pass
        for job in jobs:
            if self.lag(job):
                job.depth = 0  # no blocks: what it lacks would not fit into one pass
            self._claim_drafts(job)
        claimed = [job.depth for job in jobs]
        if takes_chosen and self._runner.backend.can_sample and self._is_chain(jobs, claimed):
            self._draft_chain(jobs, claimed, choose)
        else:
            self._draft_by_turns(jobs, claimed, choose)
        for job, depth in zip(jobs, claimed, strict=True):
            job.depth = min(job.depth, depth)
            self._trim_drafted(job)

    def prepare(self, job: DraftJob) -> None:
        """Settle where each head of the job goes on; `catch_up` and `run` do it too."""
        job.cache.prepare(job.position, self._num_heads(job))

    def lag(self, job: DraftJob) -> int:
        """Rows that `catch_up` would run for job.depth, summed over its heads; 0: they can draft now.

        A head that lags no more than a draft pass can take along counts as ready. Changes nothing.
        """
        plans = job.cache.plan(job.position, self._num_heads(job))
        lags = (job.position - plan.row for plan in plans)
        return sum(lag for lag in lags if lag > self._merged_rows)

    def catch_up(self, jobs: Seq[DraftJob], max_rows: int) -> int:
        """Run up to max_rows of the rows that the jobs' heads lag, each head's counted; returns how many.

        The most backward head of a job goes first, as far as there is room: so it finds the outputs of the head
        before, few weights are read twice, and keys that no later row sees are given back on the way. Whatever
        becomes of the text between two calls, the next goes on with what is still of use. A job whose blocks cannot
        be had is passed over.
        """
        for job in jobs:
            self.prepare(job)
        waiting, num_rows = list(jobs), 0
        while True:
            head, rows = self._next_stretch(waiting, min(max_rows - num_rows, self._max_rows))
            refused = [part.job for part in rows if not self._claim(part.job, (head,), part.start, part.end)]
            waiting = [job for job in waiting if job not in refused]
            rows = [part for part in rows if part.job not in refused]
            if rows:
                self._pass(head, rows, with_logits=False)
                num_rows += sum(part.end - part.start for part in rows)
                for part in rows:
                    self._trim_lagging(part.job)
            elif not refused:
                return num_rows

    def _next_stretch(self, jobs: Seq[DraftJob], room: int) -> tuple[int, list[_Rows]]:
        """The next rows of the first job's most backward head, and with them those of other jobs like it."""
        next_head = 0
        rows: list[_Rows] = []
        for job in jobs:
            head = self._most_backward(job)
            if room <= 0 or head is None or (rows and head != next_head):
                continue
            cache = job.cache
            start = cache.next_row[head]
            end = min(job.position, start + room)
            if cache.is_chained and head > 0:
                end = min(end, cache.next_row[head - 1] + 1)  # row p reads row p - 1 of the head before
            next_head = head
            rows.append(_Rows(job, start, end, min(max(start, cache.first_output[head]), end)))
            room -= end - start
        return next_head, rows

    def _most_backward(self, job: DraftJob) -> int | None:
        """The head that lags most, the first of equals; None if all can draft."""
        next_row = job.cache.next_row
        head = min(range(self._num_heads(job)), key=next_row.__getitem__, default=None)
        return head if head is not None and job.position - next_row[head] > self._merged_rows else None

    def _num_heads(self, job: DraftJob) -> int:
        return min(job.depth, self._spec.num_heads)

    def claim(self, job: DraftJob, end: int) -> bool:
        """Blocks for the rows of the job's heads below `end`; False if there are too few."""
        heads = range(self._num_heads(job))
        return self._claim(job, heads, min(job.cache.next_row[head] for head in heads), end)

    def keep_cycle(self, job: DraftJob, outputs: Seq[Tensor], first_row: int) -> None:
        """Heads were run elsewhere, each up to its draft row: the rows that they lacked begin at first_row."""
        for head, hidden in enumerate(outputs):
            start = job.cache.next_row[head]
            self._keep_outputs(head, _Rows(job, start, job.position + head + 1, start), hidden, first_row)
        self._trim_drafted(job)

    def _draft_by_turns(self, jobs: Seq[DraftJob], claimed: Seq[int], choose: Choose) -> None:
        """A pass, its tokens, and the next pass with them."""
        for step in range(max(claimed, default=0)):
            active = [job for job, depth in zip(jobs, claimed, strict=True) if step < min(job.depth, depth)]
            if not active:
                break
            self._draft(step, active, choose)

    def _is_chain(self, jobs: Seq[DraftJob], claimed: Seq[int]) -> bool:
        """More than one pass, each of a head of its own: what a pass has left stays until the last."""
        is_chained = all(job.cache.is_chained for job in jobs)
        return is_chained and max(claimed, default=0) > 1 and sum(claimed) <= MAX_REMEMBERED

    def _draft_chain(self, jobs: Seq[DraftJob], claimed: Seq[int], choose: Choose) -> None:
        """All passes one behind the other, each with the tokens that the backend has chosen in those before; the host
        hears of them in the end. A token that it has to choose itself is the last of its draft."""
        backend, started = self._runner.backend, time.perf_counter()
        passes: list[tuple[list[DraftJob], int, LogitRows, Ints | None]] = []
        number = 0
        for step in range(max(claimed)):
            active = [job for job, depth in zip(jobs, claimed, strict=True) if step < depth]
            rows = [self._draft_rows(job, step, step) for job in active]
            output, _ = self._launch(step, rows, with_logits=True)
            self._keep(step, rows, output.hidden)
            assert output.sampled is not None
            backend.remember(output.sampled, number)
            logits = LogitRows.of_pass(backend, output)
            logits.fetch()
            passes.append((active, sum(part.end - part.start for part in rows), logits, output.logit_ids))
            for job in active:
                job.token_ids.append(-1 - number)  # what the next pass calls it
                number += 1
        for job in jobs:
            job.token_ids.clear()
        passes[-1][2].wait()
        seconds = (time.perf_counter() - started) / len(passes)
        for step, (active, num_rows, logits, ids) in enumerate(passes):
            self.on_pass(step, num_rows, len(active), seconds)
            for place, job in enumerate(active):
                if len(job.token_ids) == step < job.depth:
                    choose(job, logits, place, ids)
                    if not logits.is_chosen(place):
                        job.depth = len(job.token_ids)
                        job.cache.truncate_heads(job.position + step + 1)

    def _draft(self, step: int, jobs: Seq[DraftJob], choose: Choose) -> None:
        """Pass `step` of a round: the rows a head still lacks and those of the draft so far."""
        head = min(step, self._spec.num_heads - 1)
        rows = [self._draft_rows(job, head, step) for job in jobs]
        logits, ids = self._pass(head, rows, with_logits=True)
        for number, job in enumerate(jobs):
            choose(job, logits, number, ids)

    def _draft_rows(self, job: DraftJob, head: int, step: int) -> _Rows:
        last = job.position + step
        if self._is_recurring(step):
            return _Rows(job, last, last + 1, last)
        start = job.cache.next_row[head]
        if not job.cache.is_chained:
            return _Rows(job, start, last + 1, last)
        # A few outputs cost next to nothing here, and a longer draft may want them.
        of_use = job.cache.first_exact(head) if last - start <= FREE_ROWS else job.cache.first_output[head]
        return _Rows(job, start, last + 1, max(start, min(of_use, last)))

    def _is_recurring(self, step: int) -> bool:
        return self._spec.is_recurrent and step > 0

    def _pass(self, head: int, rows: Seq[_Rows], with_logits: bool) -> tuple[LogitRows, Ints | None]:
        """One pass of one head; its rows count as run only when it is complete, for it may be abandoned."""
        output, started = self._launch(head, rows, with_logits)
        logits = LogitRows.of_pass(self._runner.backend, output)
        logits.wait()
        seconds = time.perf_counter() - started
        self._keep(head, rows, output.hidden)
        self.on_pass(head, sum(part.end - part.start for part in rows), len(logits), seconds)
        return logits, output.logit_ids

    def _launch(self, head: int, rows: Seq[_Rows], with_logits: bool) -> tuple[ForwardOutput, float]:
        """A pass that nobody has waited for, and when it began."""
        backend, group = self._runner.backend, self._groups[head]
        spans = [
            RowSpan(part.start, part.end, part.job.sequence.kv.tables[group], part.job.cache.first_valid[head])
            for part in rows
        ]
        token_ids = np.array(
            [token for part in rows for token in part.job.tokens(part.start, part.end)], dtype=np.int32
        )
        ends = list(accumulate(part.end - part.start for part in rows))
        logit_rows = np.array([end - 1 for end in ends] if with_logits else [], dtype=np.int32)
        started = time.perf_counter()
        backend.begin_step()
        hidden = self._inputs(head, rows, ends[-1])
        sample = _sample_rows(rows) if with_logits and backend.can_sample else None
        output_rows = _output_rows(rows, ends)
        output = self._runner.draft_forward(head, spans, token_ids, hidden, logit_rows, output_rows, sample)
        return output, started

    def _keep(self, head: int, rows: Seq[_Rows], hidden: Tensor) -> None:
        first = 0
        for part in rows:
            self._keep_outputs(head, part, hidden, first)
            first += part.end - part.first_output

    def _inputs(self, head: int, rows: Seq[_Rows], num_rows: int) -> Tensor:
        """The row p - 1 of the level that the head reads, for each row p."""
        if len(rows) == 1 and rows[0].job.cache.is_chained:
            return rows[0].job.cache.levels[head].read(rows[0].start - 1, rows[0].end - 1)
        hidden = self._runner.backend.zeros(num_rows, self._runner.model.hidden_size)
        first = 0
        for part in rows:
            self._read_inputs(head, part, hidden, first)
            first += part.end - part.start
        return hidden

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
            link, target = drafted - job.position - 1, first + drafted - rows.start
            self._runner.backend.copy_rows(hidden, target, job.links, link, rows.end - drafted)

    def _keep_outputs(self, head: int, rows: _Rows, hidden: Tensor, first: int) -> None:
        job, cache, num_rows = rows.job, rows.job.cache, rows.end - rows.start
        head_rows = job.sequence.stats.head_rows
        head_rows.extend([0] * (self._spec.num_heads - len(head_rows)))
        head_rows[head] += num_rows
        if cache.is_chained:
            cache.keep_outputs(head, rows.first_output, rows.end, hidden, first)
            return
        # Draft rows will be run again, from the trunk's rows: only committed ones count.
        cache.next_row[head] = min(rows.end, job.position + 1)
        step = rows.end - job.position - 1
        if step >= 0:
            backend = self._runner.backend
            if job.links is None:
                job.links = backend.zeros(self._spec.max_depth, self._runner.model.hidden_size)
            backend.copy_rows(job.links, step, hidden, first + rows.end - rows.first_output - 1, 1)

    def _claim_drafts(self, job: DraftJob) -> None:
        """Blocks for the whole draft, or for as much of it as there are blocks."""
        while job.depth:
            heads = range(self._num_heads(job))
            start = min(job.cache.next_row[head] for head in heads)
            if self._claim(job, heads, start, job.position + job.depth):
                return
            job.depth -= 1

    def _claim(self, job: DraftJob, heads: Seq[int], start: int, end: int) -> bool:
        groups = sorted({self._groups[head] for head in heads})
        return all(self._runner.kv_cache.claim(job.sequence.kv, group, start, end) for group in groups)

    def _trim_drafted(self, job: DraftJob) -> None:
        """No later row of a head that ran stands before position + 1; slack keeps what a rollback may ask for."""
        if self._spec.window is not None:
            self._trim(job, job.position + 2 - self._spec.window - self._runner.kv_cache.slack)

    def _trim_lagging(self, job: DraftJob) -> None:
        """On the way: keys below those that the next row of use sees are given back."""
        if self._spec.window is not None:
            cache, heads = job.cache, range(self._num_heads(job))
            row = min(max(cache.next_row[head], cache.first_output[head]) for head in heads)
            self._trim(job, row - self._spec.window + 1)

    def _trim(self, job: DraftJob, first_kept: int) -> None:
        if first_kept // BLOCK_SIZE <= min(job.cache.trimmed) // BLOCK_SIZE:
            return  # no whole block more
        for group in sorted(set(self._groups)):
            self._runner.kv_cache.trim(job.sequence.kv, group, first_kept)
        for head in range(self._spec.num_heads):
            job.cache.trim(head, first_kept)
