"""What is learnt from every step: what drafts are worth, what passes cost, what time is worth.

Owns the acceptance of all sources, the prices, and a track for each sequence. Told what was drafted (arbiter.py), what
the text then was, and how long it took. Decides nothing.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq

from stepahead.engine.batch import ScheduledBatch
from stepahead.engine.request import Sequence, SequenceKV, Verdict
from stepahead.speculative.acceptance import HEADS_ENOUGH, Acceptance, CopyJudge, HeadsJudge
from stepahead.speculative.bid import Bid, Round
from stepahead.speculative.calibration import margin_bin
from stepahead.speculative.cost import CostSeed, HeadCost
from stepahead.speculative.prices import ClassPrices, Prices
from stepahead.speculative.track import Guess, Track

SHADOW_SHARE = 0.01
"""Of the time, that drafts may take which are made to see whether drafting would pay."""

FEW_ROWS = 4
"""Rows of a sequence in a draft pass that follows the one of the step before: what is committed since, and one."""


class Learner:
    """Of one model. State outlives requests."""

    def __init__(self, max_depth: int, measure: Callable[[], CostSeed]) -> None:
        """max_depth: of chains of heads, 0 without heads; measure: called once, by `prepare`."""
        self.acceptance = Acceptance(max_depth)
        self.prices: Prices | None = None  # None: nothing is priced yet
        self._measure = measure
        self._tracks: dict[int, Track] = {}  # by kv_id
        self._num_steps = 0

    def prepare(self) -> None:
        """Measure what passes cost, unless it is known; nothing may be running."""
        if self.prices is None:
            self.prices = Prices(self._measure())

    @property
    def heads(self) -> HeadCost:
        """What passes of heads cost; only where there are heads, and prices."""
        assert self.prices is not None and self.prices.heads is not None
        return self.prices.heads

    def begin(self, sequence: Sequence) -> None:
        track = self._tracks[sequence.kv.kv_id] = self.acceptance.new_track()
        if self.acceptance.heads and self.prices is not None:
            is_unknown = self.acceptance.heads[0].num_seen < HEADS_ENOUGH
            track.until_shadow = 1 if is_unknown else max(track.interval, self.rest_steps(self.prices.of(1), 1) // 2)

    def forget(self, kv: SequenceKV) -> None:
        self._tracks.pop(kv.kv_id, None)

    def track(self, sequence: Sequence) -> Track:
        return self._tracks[sequence.kv.kv_id]

    def rest_steps(self, prices: ClassPrices, num_sequences: int) -> int:
        """Steps in which a draft that nobody asked for, of each sequence, is a small enough share of the time."""
        return int(self.heads.shadow_ms * num_sequences / (SHADOW_SHARE * prices.cost(num_sequences)))

    # --- before the step ---
    def guess_heads(self, sequence: Sequence, token_ids: tuple[int, ...], margins: Seq[float], is_shadow: bool) -> None:
        """Heads drafted these tokens, verified or not: the text will judge them."""
        if token_ids:
            track = self.track(sequence)
            bins = tuple(margin_bin(margin) for margin in margins[: len(token_ids)])
            judge = HeadsJudge(self.acceptance, track, bins, is_shadow)
            track.guesses.append(Guess(len(sequence.token_ids), token_ids, judge))

    def guess_copy(self, bid: Bid) -> None:
        """A copy that was made, or might have been: the text will judge it. One that was not made at a time."""
        match, track = bid.match, bid.track
        if match is None or (bid.source != "copy" and track.has_copy):
            return
        first = [calibration for calibration in (bid.opinion,) if calibration is not None]
        if match.is_resumed:
            first.append(self.acceptance.resumed)
        judge = CopyJudge(self.acceptance, track, match.length, tuple(first), match.is_resumed)
        track.guesses.append(Guess(len(bid.sequence.token_ids), match.token_ids, judge, is_copy=True))

    def learn_pass(self, head: int, num_rows: int, num_logits: int, milliseconds: float) -> None:
        """One pass of a head: it drafted num_logits tokens, or only caught up."""
        if self.prices is None:
            return
        if num_logits:
            self.heads.learn_pass(head, milliseconds, num_rows <= FEW_ROWS * num_logits)
        else:
            self.heads.learn_catch_up(num_rows, milliseconds)

    # --- after the step ---
    def judge(self, batch: ScheduledBatch) -> None:
        """Compare what was guessed with what the text has become."""
        for rows in batch.rows:
            track = self._tracks.get(rows.sequence.kv.kv_id)
            if track is not None and track.guesses:
                track.compare(rows.sequence.token_ids)

    def learn(
        self, this: Round, batch: ScheduledBatch, verdicts: Seq[Verdict | None], now: float, growth: Seq[int]
    ) -> None:
        """now: seconds, by the clock of the round; growth: distinct experts of the pass's first rows."""
        self._num_steps += 1
        self.judge(batch)
        has_more = any(rows.end - rows.start > 1 for rows in batch.rows)
        # Steps without drafts or prompts are alike: every fourth tells enough.
        if self.prices is not None and (has_more or self._num_steps % 4 == 0):
            self._learn_costs(this, batch, verdicts, now, growth)

    def _learn_costs(
        self, this: Round, batch: ScheduledBatch, verdicts: Seq[Verdict | None], now: float, growth: Seq[int]
    ) -> None:
        assert self.prices is not None
        num_rows, is_alone = batch.num_rows, len(batch.rows) == 1
        if num_rows != sum(rows.num_logits for rows in batch.rows):
            if is_alone and batch.rows[0].start == 0:
                self.prices.learn_growth(growth)
            self.prices.learn_mixed(this.num_sequences, num_rows, 1e3 * (now - this.proposed))
            return
        prices = this.prices or self.prices.of(len(batch.rows))
        prices.cost.learn(num_rows, 1e3 * (now - this.proposed), growth if is_alone else ())
        if all(rows.draft.source in ("", "mtp") for rows in batch.rows):
            num_tokens = sum(len(verdict.accepted_ids) + 1 for verdict in verdicts if verdict is not None)
            prices.earn(num_tokens, 1e3 * (now - this.started - this.catch_up_seconds))
