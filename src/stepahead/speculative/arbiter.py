"""Decides, step by step and sequence by sequence, which source drafts, how far, and what is verified: all by one price.

Sources compete by what they are expected to gain: tokens that a grammar forces, tokens copied from the text itself, and
the chain of heads, whose first token may also be asked for its opinion of a copy. What is drafted but not worth a row
is compared with the text all the same; where nothing pays, a head drafts in the shadow now and then, so that drafting
comes back when the text turns. The text never depends on any of it.

Owns no price, no calibration and no pass: speculative/{learner,mtp,copy,forced}.py do.
"""

import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from typing import Protocol

from stepahead.backends.base import Tensor
from stepahead.engine.batch import ScheduledBatch
from stepahead.engine.request import NO_DRAFT, Draft, Sequence, SequenceKV, Verdict
from stepahead.engine.trace import OnStep
from stepahead.models.model import Model
from stepahead.speculative.acceptance import ENOUGH, FORCED_RATE, HEADS_ENOUGH
from stepahead.speculative.bid import Bid, Round
from stepahead.speculative.calibration import margin_bin
from stepahead.speculative.copy import CopyProposer, Match
from stepahead.speculative.cost import CostSeed
from stepahead.speculative.draft_job import DraftJob
from stepahead.speculative.forced import forced_ids
from stepahead.speculative.learner import Learner
from stepahead.speculative.mtp import MtpProposer
from stepahead.speculative.planning import plan_together
from stepahead.speculative.policy import best_length, share_rows
from stepahead.speculative.prices import ClassPrices
from stepahead.speculative.step_report import report
from stepahead.speculative.track import DOUBTFUL_INTERVAL, Track

USUAL_TOKENS = 256
"""What a text is expected to go on for, where its limit is further: catching up must pay within it."""

HOPELESS = 0.3
"""Acceptance of the first head: below, it is not in a hurry to be known better."""

IDLE_STEPS, MAX_NAPS, SHORT_MS = 12, 6, 3.0
"""After so many steps without a draft at most 6 are not looked at, for about 3 ms."""

MIN_CATCH_UP = 16
MAX_CATCH_UP = 512
"""Rows of a step's catch-up: a chunk takes about as long as a plain step, and never less than this many rows."""


class TrunkRunner(Protocol):
    """The part of engine.runner.ModelRunner that pricing needs."""

    @property
    def model(self) -> Model: ...
    @property
    def expert_growth(self) -> Seq[int]: ...


class Arbiter:
    """A Proposer (speculative/proposer.py) over all sources of one model.

    Requests that fix their depth draft as they say; the others are priced.
    """

    def __init__(
        self,
        mtp: MtpProposer | None,
        measure: Callable[[], CostSeed],
        runner: TrunkRunner,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """measure: called once, before the first priced request; clock: seconds."""
        self.on_step: OnStep | None = None
        self.copies = CopyProposer()
        self._mtp = mtp
        self._runner = runner
        self._clock = clock
        self.learner = Learner(mtp.max_depth if mtp is not None else 0, measure)
        self.num_steps = 0
        self._num_idle = 0  # steps without a draft
        self._naps = self._naps_left = 0  # steps not looked at, since the last one that was
        self._num_prompt_rows = MAX_CATCH_UP  # of the last step, if it had any: the next one has as many at most
        self._num_drafting = 1  # sequences whose heads share passes
        self._round = Round()
        if mtp is not None:
            mtp.on_pass(self._hear_pass)

    def prepare(self) -> None:
        """Measure what passes cost, unless it is known; nothing may be running."""
        self.learner.prepare()

    def begin(self, sequence: Sequence) -> None:
        self._num_idle = self._naps = self._naps_left = 0
        self.learner.begin(sequence)
        self.copies.begin(sequence)
        if self._mtp is not None:
            self._mtp.begin(sequence)

    def forget(self, kv: SequenceKV) -> None:
        self.learner.forget(kv)
        self.copies.forget(kv)
        if self._mtp is not None:
            self._mtp.forget(kv)

    # --- before the step ---
    def propose(self, sequences: Iterable[Sequence]) -> None:
        """Set the draft of every sequence; heads run, or catch up, as far as that is expected to pay."""
        if self._naps_left > 0 and self.on_step is None:
            self._naps_left -= 1
            self._round.proposed = self._clock()  # a prompt may be admitted yet, and wake us up
            for sequence in sequences:
                sequence.draft = NO_DRAFT
            return
        before = self._round
        this = self._round = Round(started=self._clock())
        heads, copies = list[Sequence](), list[Sequence]()  # of fixed depth
        priced: list[tuple[Sequence, int]] = []
        for sequence in sequences:
            sequence.draft = NO_DRAFT
            if not sequence.is_decoding:
                this.num_prompt_rows += len(sequence.token_ids) - sequence.num_computed_tokens
                continue
            this.num_sequences += 1
            limit = min(sequence.request.depth, sequence.num_remaining_tokens - 1)
            if limit <= 0 or sequence.is_aborted:
                continue
            if sequence.request.is_priced and self.learner.prices is not None:
                priced.append((sequence, limit))
            elif sequence.request.speculation.mode == "copy":
                copies.append(sequence)
            else:
                heads.append(sequence)
        this.size_up(self._num_prompt_rows, before)
        if heads or copies:
            self._propose_fixed(heads, copies)
        bids = self._bids(priced)
        if bids:
            self._propose_priced(bids)
        has_drafted = this.pass_seconds or this.catch_up_seconds or any(bid.sequence.draft.token_ids for bid in bids)
        self._rest(is_idle=not (has_drafted or heads or copies) and this.num_rows == this.num_sequences > 0)
        this.proposed = self._clock()

    def _rest(self, is_idle: bool) -> None:
        """Where nothing was worth a draft for a while, look away for a few steps, if they are short."""
        self._num_idle = self._num_idle + 1 if is_idle else 0
        self._naps = self._naps_left = 0
        if self._num_idle >= IDLE_STEPS and self.learner.prices is not None:
            plain = self.learner.prices.of(self._round.num_sequences).cost(self._round.num_sequences)
            self._naps = self._naps_left = min(MAX_NAPS, int(SHORT_MS / plain))

    def _bids(self, priced: list[tuple[Sequence, int]]) -> list[Bid]:
        tracks = [self.learner.track(sequence) for sequence, _ in priced]
        if self._round.is_new or any(track.until_plan <= 1 for track in tracks):
            for track in tracks:
                track.until_plan = 1  # plans are made for all together
        return [bid for sequence, limit in priced if (bid := self._bid(sequence, limit)) is not None]

    def _bid(self, sequence: Sequence, limit: int) -> Bid | None:
        """None, quickly, where nothing is to be copied and heads are known not to pay: most steps of a text that
        drafts badly end here, and should cost nothing."""
        track, mode = self.learner.track(sequence), sequence.request.speculation.mode
        match = None if mode == "mtp" else self.copies.continuation(sequence, limit)
        if match is None and sequence.grammar is None and track.rests(1 + self._naps):
            return None
        track.num_steps += 1
        return Bid(sequence, track, limit, match=match)

    def _propose_fixed(self, heads: list[Sequence], copies: list[Sequence]) -> None:
        if heads and self._mtp is not None:
            self._mtp.propose(heads)
        if copies:
            self.copies.propose(copies)
        for sequence in (*heads, *copies):
            draft = sequence.draft
            self._round.num_rows += len(draft.token_ids)
            if draft.source == "mtp":
                self.learner.guess_heads(sequence, draft.token_ids, draft.confidence, is_shadow=False)

    def _propose_priced(self, bids: list[Bid]) -> None:
        this, acceptance = self._round, self.learner.acceptance
        assert self.learner.prices is not None
        prices = this.prices = self.learner.prices.of(this.num_sequences)
        this.rate = prices.rate
        if self._mtp is not None:
            self._plan([bid for bid in bids if bid.sequence.request.speculation.mode != "copy"], prices)
        jobs: dict[DraftJob, Bid] = {}
        for bid in bids:
            self._choose_source(bid, prices)
            if bid.source == "mtp" or bid.is_shadow:
                job = self._ready_job(bid, prices)
                if job is not None:
                    jobs[job] = bid
                elif bid.source == "mtp":
                    bid.source = ""
                    self._offer_copy(bid, prices, 0.0, may_ask=False)
        if jobs:
            self._run_heads(jobs, prices)
        is_young = bool(acceptance.heads) and acceptance.heads[0].num_seen < ENOUGH
        chains = [[] if bid.is_shadow and is_young else bid.chain for bid in bids]
        lengths = share_rows(chains, this.rate, prices.cost, this.num_rows)
        for bid, length in zip(bids, lengths, strict=True):
            if bid.token_ids or bid.match is not None:
                self._submit(bid, length)

    def _choose_source(self, bid: Bid, prices: ClassPrices) -> None:
        """The source that is expected to gain most in this step, none included; heads have not drafted yet."""
        sequence, limit = bid.sequence, bid.limit
        mode = sequence.request.speculation.mode
        gain = 0.0
        if sequence.grammar is not None:
            token_ids = forced_ids(sequence, limit, self._runner.model.vocab_size)
            if token_ids:
                chain = [FORCED_RATE**number for number in range(1, len(token_ids) + 1)]
                gain = self._gain(chain, prices)
                bid.source, bid.token_ids, bid.chain = "forced", token_ids, chain
        if self._mtp is not None and mode != "copy":
            gain = self._offer_heads(bid, prices, gain)
        self._offer_copy(bid, prices, gain)

    def _gain(self, chain: Seq[float], prices: ClassPrices) -> float:
        return best_length(chain, self._round.rate, prices.cost, self._round.num_rows)[1]

    def _offer_heads(self, bid: Bid, prices: ClassPrices, gain: float) -> float:
        """Take the heads if they are worth more than `gain`; or let one draft in the shadow, if it is time."""
        track = bid.track
        if track.plan.value > gain:
            bid.source, bid.token_ids, bid.chain = "mtp", (), []
            return track.plan.value
        track.until_shadow -= 1
        if track.until_shadow <= 0 and not bid.source:
            track.until_shadow = self._shadow_interval(track, prices)
            bid.is_shadow = True
        return gain

    def _shadow_interval(self, track: Track, prices: ClassPrices) -> int:
        """Steps to the next draft that nobody asked for: as many as keep its share of the time small."""
        first = self.learner.acceptance.heads[0]
        if first.num_seen < HEADS_ENOUGH:
            return 1
        if first.num_seen < ENOUGH and first.mean > HOPELESS:
            return DOUBTFUL_INTERVAL
        return max(track.interval, self.learner.rest_steps(prices, self._round.num_sequences))

    def _plan(self, bids: Seq[Bid], prices: ClassPrices) -> None:
        """Make plans for all whose heads may draft, if it is time for one of them."""
        assert self._mtp is not None
        for bid in bids:
            bid.track.until_plan -= 1
        if all(bid.track.until_plan > 0 for bid in bids):
            return
        this = self._round
        candidates = [(bid.track, min(bid.sequence.request.depth, self._mtp.max_depth)) for bid in bids]
        self._num_drafting = plan_together(
            candidates, self.learner.acceptance, prices, self.learner.heads, this.num_rows, this.num_sequences
        )

    def _offer_copy(self, bid: Bid, prices: ClassPrices, gain: float, may_ask: bool = True) -> None:
        """Take the copy if it is worth more than `gain`, as it is or if the first head has its first token too."""
        acceptance, match = self.learner.acceptance, bid.match
        if match is None:
            return
        first = acceptance.resumed if match.is_resumed else None
        if (first or acceptance.copy).num_seen < ENOUGH:
            return
        chain = acceptance.copy_chain(bid.track, match.length, len(match.token_ids), first)
        copy_gain = self._gain(chain, prices)
        if copy_gain > gain:
            bid.source, bid.token_ids, bid.chain, bid.is_shadow = "copy", match.token_ids, chain, False
            gain = copy_gain
        if may_ask and self._ask_gain(bid, match, prices) > gain:
            bid.source, bid.asks, bid.token_ids, bid.chain = "mtp", True, (), []

    def _ask_gain(self, bid: Bid, match: Match, prices: ClassPrices) -> float:
        """Expected gain of running the first head, copying if it agrees, and going on with the heads if not."""
        acceptance, track = self.learner.acceptance, bid.track
        if track.plan.depth == 0 or acceptance.agrees.num_seen < ENOUGH:
            return 0.0
        asking = self._round.rate * self.learner.heads(0) / self._num_drafting
        agrees = acceptance.agrees.rates[0]
        chain = acceptance.copy_chain(track, match.length, len(match.token_ids), acceptance.copy_if_agreed)
        return agrees * self._gain(chain, prices) + (1.0 - agrees) * (track.plan.value + asking) - asking

    def _ready_job(self, bid: Bid, prices: ClassPrices) -> DraftJob | None:
        """A job whose heads can draft now; None: they cannot, or must catch up, and have done a part of that."""
        assert self._mtp is not None
        depth = 1 if bid.is_shadow else min(bid.limit, bid.track.depth)
        job = self._mtp.job(bid.sequence, depth)
        if job is None:
            return None
        lag = self._mtp.lag(job)
        if lag == 0:
            return job
        this, heads = self._round, self.learner.heads
        plain = prices.cost(this.num_sequences)
        chunk = int(min(max(plain / heads.row_ms, MIN_CATCH_UP), MAX_CATCH_UP))
        if not bid.is_shadow and lag > chunk:
            num_tokens = min(bid.sequence.num_remaining_tokens, USUAL_TOKENS)
            num_steps = num_tokens / max(this.rate * plain, 1.0)
            if bid.track.plan.value * num_steps <= this.rate * heads.catch_up(lag):
                return None
        if lag <= chunk:
            return job
        started = self._clock()
        self._mtp.catch_up([job], chunk)
        if bid.is_shadow:
            bid.track.until_shadow = 1  # again in the next step
            bid.track.shadow_ms += 1e3 * (self._clock() - started)
        return None

    def _run_heads(self, jobs: dict[DraftJob, Bid], prices: ClassPrices) -> None:
        assert self._mtp is not None
        this, heads = self._round, self.learner.heads
        started, before = self._clock(), this.catch_up_seconds
        this.pass_seconds.clear()

        def wants_more(job: DraftJob, margin: float) -> bool:
            return self._wants_more(jobs[job], job, margin)

        self._mtp.draft(list(jobs), wants_more)
        for job, bid in jobs.items():
            self._finish_heads(bid, job, prices)
        seconds = self._clock() - started
        this.actual_draft_ms = 1e3 * seconds
        this.predicted_draft_ms = sum(heads(step) for step in range(len(this.pass_seconds)))
        if len(jobs) == 1 and bid.is_shadow:
            heads.learn_shadow(this.actual_draft_ms + bid.track.shadow_ms)
            bid.track.shadow_ms = 0.0
        if this.pass_seconds:
            outside = seconds - sum(this.pass_seconds) - (this.catch_up_seconds - before)
            heads.learn_overhead(len(this.pass_seconds), 1e3 * outside)

    def _wants_more(self, bid: Bid, job: DraftJob, margin: float) -> bool:
        """After each drafted token: enter it, and say whether one more is worth a pass."""
        step = len(job.token_ids) - 1
        before = bid.chain[-1] if bid.chain else 1.0
        bid.confidence = (*bid.confidence, margin)
        bid.chain.append(before * bid.track.heads[step].rate(margin_bin(margin)))
        if bid.is_shadow or step + 1 >= bid.limit:
            return False
        is_agreed = step == 0 and bid.match is not None and job.token_ids[0] == bid.match.token_ids[0]
        if is_agreed and (bid.asks or self.learner.acceptance.copy_if_agreed.num_seen >= ENOUGH):
            return False  # the copy goes on from here
        thresholds = bid.track.plan.thresholds
        if step + 1 >= len(thresholds):
            return False
        return bid.chain[-1] > thresholds[step + 1] or (step + 1 == bid.track.plan.depth and bid.track.goes_deeper())

    def _finish_heads(self, bid: Bid, job: DraftJob, prices: ClassPrices) -> None:
        """After its chain: what the heads drafted, or the copy that the first of them agrees to, if that gains more."""
        token_ids, match, acceptance = tuple(job.token_ids), bid.match, self.learner.acceptance
        bid.chain = bid.chain[: len(token_ids)]
        self.learner.guess_heads(bid.sequence, token_ids, bid.confidence, bid.is_shadow)
        bid.source, bid.token_ids = "mtp", token_ids
        if match is None or not token_ids:
            return
        has_agreed = token_ids[0] == match.token_ids[0]
        acceptance.agrees.count(0, has_agreed)
        bid.opinion = acceptance.copy_if_agreed if has_agreed else acceptance.copy_if_not
        if not has_agreed or acceptance.copy_if_agreed.num_seen < ENOUGH:
            return
        chain = acceptance.copy_chain(bid.track, match.length, len(match.token_ids), acceptance.copy_if_agreed)
        if self._gain(chain, prices) > self._gain(bid.chain, prices):
            bid.source, bid.token_ids, bid.confidence, bid.chain = "copy", match.token_ids, (), chain

    def _submit(self, bid: Bid, length: int) -> None:
        """Draft the first `length` tokens, 0: none; and let the text judge what was not drafted, too."""
        sequence = bid.sequence
        if length:
            confidence = bid.confidence[:length] or tuple(bid.chain[:length])
            sequence.draft = Draft(bid.token_ids[:length], confidence, bid.source)
        self.learner.guess_copy(bid)
        if self.on_step is not None:
            self._round.bids[sequence.request.request_id] = bid

    # --- after the step ---
    def observe(self, batch: ScheduledBatch, hidden: Tensor, verdicts: Seq[Verdict | None]) -> None:
        """Learn from the step, unless it was slept through; what has ended lets go of its memory in any case."""
        if self._mtp is not None:
            self._mtp.observe(batch, hidden, verdicts)
        now = self._clock()
        self.copies.observe(batch, hidden, verdicts)
        if self._naps_left < self._naps and self.on_step is None:
            return
        growth = self._runner.expert_growth
        self._num_prompt_rows = sum(rows.end - rows.start for rows in batch.rows if rows.is_prompt) or MAX_CATCH_UP
        self.learner.learn(self._round, batch, verdicts, now, growth)
        if self.on_step is not None:
            report(self.on_step, self.num_steps, self._round, batch, verdicts, now, growth[-1] if growth else 0)
        self.num_steps += 1

    def _hear_pass(self, head: int, num_rows: int, num_logits: int, seconds: float) -> None:
        """Of each pass of a head; those without logits only catch up."""
        this = self._round
        self.learner.learn_pass(head, num_rows, num_logits, 1e3 * seconds)
        if num_logits:
            this.pass_seconds.append(seconds)
        else:
            this.num_catch_up_rows += num_rows
            this.catch_up_seconds += seconds
