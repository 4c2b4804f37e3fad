"""Drafts from a model's multi-token-prediction heads.

Each draft token is chosen by the target's own sampler, with the same filters, noise and position, so that draft and
target agree whenever their logits do. What is special about a family stands in its `DraftSpec`; this file knows no
family, and nothing of blocks or passes: speculative/head_passes.py runs the heads.
"""

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq

import numpy as np

from stepahead.backends.base import Floats, Ints, Tensor
from stepahead.engine.batch import ScheduledBatch
from stepahead.engine.logit_rows import LogitRows
from stepahead.engine.replay import FORCED_MARGIN
from stepahead.engine.request import NO_DRAFT, Draft, Sequence, SequenceKV, Verdict
from stepahead.engine.sampler import Sampled, Sampler, SamplerState, Shortlist, is_plain
from stepahead.errors import CapacityError, RequestError
from stepahead.models.cycles import CycleStart
from stepahead.models.draft_vocab import all_ids
from stepahead.models.model import Chain
from stepahead.speculative.cycle_start import drafting_start, plain_start
from stepahead.speculative.draft_job import DraftJob
from stepahead.speculative.head_cache import HeadCache
from stepahead.speculative.head_passes import MAX_ROWS, HeadPasses, HeadRunner, OnPass

WantsMore = Callable[[DraftJob, float], bool]
"""Told of a job and the margin of the token just drafted: is one more worth a pass?"""


class MtpProposer:
    """A Proposer (speculative/proposer.py) over the heads of one model.

    State is kept by kv_id. Snapshots get the trunk's hidden rows alone: a sequence that goes on from one rebuilds the
    heads' own state from them, and drafts as if it had computed its whole prompt. Nothing is kept for requests that
    never draft (mode "off").
    """

    def __init__(self, runner: HeadRunner, sampler: Sampler, max_rows: int = MAX_ROWS) -> None:
        assert runner.model.draft is not None, "a model without heads has nothing to propose"
        self._runner = runner
        self._sampler = sampler
        self._spec = runner.model.draft
        self._passes = HeadPasses(runner, self._spec, max_rows)
        self._caches: dict[int, HeadCache] = {}

    def begin(self, sequence: Sequence) -> None:
        """Start from the hidden rows of the prefix that sequence.kv holds."""
        if sequence.request.speculation.mode != "off":
            cache = self._cache(sequence.kv)
            if sequence.hidden_rows is not None:
                cache.restore(sequence.hidden_rows, sequence.num_computed_tokens)
            cache.truncate(sequence.num_computed_tokens)
            self._note(sequence.token_ids)

    @property
    def max_depth(self) -> int:
        """The longest chain of the model's heads."""
        return self._spec.max_depth

    def on_pass(self, hear: OnPass) -> None:
        """Have each pass of a head reported: what it took is what drafting costs."""
        self._passes.on_pass = hear

    def propose(self, sequences: Iterable[Sequence]) -> None:
        """Set the draft of every sequence, as long as it asks for; prompts are caught up with first."""
        jobs: list[DraftJob] = []
        margins: dict[DraftJob, list[float]] = {}
        for sequence in sequences:
            sequence.draft = NO_DRAFT
            job = self.job(sequence, sequence.request.depth)
            if job is not None:
                margins[job] = []
                jobs.append(job)

        def wants_more(job: DraftJob, margin: float) -> bool:
            margins[job].append(margin)
            return True

        self.draft(jobs, wants_more)
        for job in jobs:
            if job.token_ids:
                job.sequence.draft = Draft(tuple(job.token_ids), tuple(margins[job]), "mtp")

    def job(self, sequence: Sequence, depth: int) -> DraftJob | None:
        """A chain of at most `depth` tokens after what is committed; None where none can begin."""
        depth = min(depth, self._depth(sequence))
        if depth <= 0:
            return None
        job = self._job(sequence, sequence.request.speculation.chain, depth)
        return job if job.cache.can_draft(job.position) else None

    def lag(self, job: DraftJob) -> int:
        """Rows that the job's heads have to run before they can draft, all heads together; 0: they can now."""
        return self._passes.lag(job)

    def catch_up(self, jobs: Seq[DraftJob], max_rows: int) -> int:
        """Run at most max_rows of those; returns how many were run."""
        return self._passes.catch_up(jobs, max_rows)

    def draft(self, jobs: list[DraftJob], wants_more: WantsMore) -> None:
        """Draft job.token_ids of every job, one pass a token for all of them, until nobody wants more."""
        states = {job: SamplerState.of(job.sequence) for job in jobs}

        def choose(job: DraftJob, logits: LogitRows, number: int, ids: Ints | None) -> None:
            num_tokens = len(job.token_ids)
            shortlist = None if ids is None else Shortlist(ids, self._runner.model.vocab_size)
            states[job], margin = self._choose(job, logits, number, shortlist, states[job])
            if len(job.token_ids) > num_tokens and not wants_more(job, margin):
                job.depth = len(job.token_ids)

        self._passes.run(jobs, choose, takes_chosen=all(_takes_chosen(job.sequence) for job in jobs))

    def observe(self, batch: ScheduledBatch, hidden: Tensor, verdicts: Seq[Verdict | None]) -> None:
        """Keep the hidden rows that stand; those of rejected draft tokens are beyond num_computed_tokens."""
        for rows, verdict in zip(batch.rows, verdicts, strict=True):
            sequence = rows.sequence
            cache = self._caches.get(sequence.kv.kv_id)
            if cache is None:
                continue
            self._note(() if verdict is None else verdict.token_ids)
            start, first_row = rows.start, rows.first_row
            for snapshot in sequence.snapshots:
                cache.observe(start, hidden, first_row, snapshot.position)
                snapshot.hidden = cache.save()
                first_row += snapshot.position - start
                start = snapshot.position
            if start < sequence.num_computed_tokens or not sequence.snapshots:
                cache.observe(start, hidden, first_row, sequence.num_computed_tokens)

    def cycle_start(self, sequence: Sequence, depth: int) -> CycleStart | None:
        """Where a device may go on with the sequence's first `depth` heads; None: they have to catch up first, or hand
        on something else than the device's heads do."""
        if depth == 0:
            return plain_start(sequence)
        job = self._job(sequence, sequence.request.speculation.chain, depth)
        if not job.cache.is_chained or not job.cache.can_draft(job.position):
            return None
        self._passes.prepare(job)
        return drafting_start(sequence, job.cache, depth, self._runner.backend)

    def claim(self, sequence: Sequence, depth: int, end: int) -> bool:
        """Blocks for the first `depth` heads' rows below `end`; False if there are too few."""
        return depth == 0 or self._passes.claim(self._job(sequence, sequence.request.speculation.chain, depth), end)

    def keep_cycle(self, sequence: Sequence, outputs: Seq[Tensor], first_row: int) -> None:
        """A device ran the heads that `cycle_start` told of, up to the draft that is judged now: their rows begin at
        first_row of `outputs`. Call it before the sequence grows."""
        job = self._job(sequence, sequence.request.speculation.chain, len(outputs))
        self._passes.keep_cycle(job, outputs, first_row)

    def forget(self, kv: SequenceKV) -> None:
        self._caches.pop(kv.kv_id, None)

    def draft_logits(self, sequence: Sequence, chain: Chain) -> Floats:
        """(num_heads, vocab_size): each head's logits in the chain that follows the sequence, greedy in between.

        All tokens but the last have been through the trunk, and been observed. Raises RequestError if there is no
        such chain, CapacityError if the heads' rows find no blocks.
        """
        assert sequence.is_decoding, "the trunk has not seen all tokens but the last"
        job = self._job(sequence, chain, self._spec.num_heads)
        if not job.cache.can_draft(job.position):
            raise RequestError(
                f"no hidden row precedes the last token, and chain={chain!r} starts from one: give 2 tokens"
            )
        logits: list[Floats] = []

        def choose(job: DraftJob, rows: LogitRows, number: int, ids: Ints | None) -> None:
            assert ids is None, "these are compared with other engines': of the whole vocabulary"
            logits.append(rows.values[number].copy())
            job.token_ids.append(int(logits[-1].argmax()))

        with all_ids(self._runner.model):
            self._passes.run([job], choose)
        if len(logits) < self._spec.num_heads:
            raise CapacityError(
                "no free KV blocks for the heads' rows: try when fewer requests run, or raise max_num_seqs"
            )
        return np.stack(logits)

    def _depth(self, sequence: Sequence) -> int:
        """Draft tokens worth aiming at: the token after the last accepted one always comes from the trunk."""
        if sequence.is_finished or sequence.is_aborted or not sequence.is_decoding:
            return 0
        return min(sequence.request.depth, sequence.num_remaining_tokens - 1, self._spec.max_depth)

    def _job(self, sequence: Sequence, chain: Chain, depth: int) -> DraftJob:
        cache = self._cache(sequence.kv)
        cache.truncate(sequence.num_computed_tokens)
        cache.use_chain(chain)
        return DraftJob(sequence, cache, sequence.num_computed_tokens, depth)

    def _cache(self, kv: SequenceKV) -> HeadCache:
        cache = self._caches.get(kv.kv_id)
        if cache is None:
            model, slack = self._runner.model, self._runner.kv_cache.slack
            cache = HeadCache(self._spec, self._runner.backend, model.hidden_size, slack)
            self._caches[kv.kv_id] = cache
        return cache

    def _note(self, token_ids: Seq[int]) -> None:
        if self._runner.model.draft_vocab is not None:
            self._runner.model.draft_vocab.note(token_ids)

    def _choose(
        self, job: DraftJob, logits: LogitRows, number: int, shortlist: Shortlist | None, state: SamplerState
    ) -> tuple[SamplerState, float]:
        """Draft one token as the target will choose it, and end the draft where the text would end.

        Returns the state after it and its margin.
        """
        position = len(job.sequence.token_ids) + len(job.token_ids)
        try:
            sampled = logits.choose(number, self._sampler, state, position, shortlist)
        except RequestError:
            job.depth = len(job.token_ids)  # nothing is allowed here; if the text gets here, verify says so
            return state, 0.0
        replay = job.sequence.request.replay
        if replay is not None and replay.rates is not None:
            forced = replay.draft(position, len(job.token_ids), sampled.token_id, self._runner.model.vocab_size)
            sampled = Sampled(forced, FORCED_MARGIN)
        job.token_ids.append(sampled.token_id)
        if sampled.token_id in job.sequence.request.end_ids:
            job.depth = len(job.token_ids)
            return state, sampled.margin
        try:
            state = state.advance(sampled.token_id)
            is_over = state.is_finished
        except RequestError:
            is_over = True  # the same: whose grammar it is, verify knows
        if is_over:
            job.depth = len(job.token_ids)
        return state, sampled.margin


def _takes_chosen(sequence: Sequence) -> bool:
    """True where a draft token is what the backend has chosen, if it has."""
    replay = sequence.request.replay
    return is_plain(sequence) and (replay is None or replay.rates is None)
