"""How far drafts go in cycles that a device runs ahead of the host, and when a step of the host's is better.

In a cycle every head that takes part drafts, whatever the margins: the next one is launched before anybody has seen
them. That is worth it where what the host's part of a step takes is more than choosing by margins saves; both are
known: the one is measured, the other is what the chain's plan expects. Steps of the host's come in between whenever a
plan, a draft in the shadow or a copy is due, so that nothing stops being learnt.

Owns what cycles take. Prices, acceptance and tracks are the learner's, passes the heads'.
"""

import math
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq

from stepahead.backends.base import Tensor
from stepahead.engine.batch import ScheduledBatch
from stepahead.engine.cycle_queue import FinishedCycle
from stepahead.engine.request import Sequence, Verdict
from stepahead.models.cycles import CycleStart
from stepahead.speculative.acceptance import ENOUGH
from stepahead.speculative.arbiter import Arbiter
from stepahead.speculative.bid import Round
from stepahead.speculative.cycle_start import plain_start
from stepahead.speculative.mtp import MtpProposer
from stepahead.speculative.policy import best_length
from stepahead.speculative.prices import ClassPrices, chain_prices
from stepahead.speculative.step_report import report

SETTLED = 2
"""Cycles until one takes what the others will: the first ones are launched into an idle device."""

FORGOTTEN = 64
"""Steps of the host's after which it is tried again what cycles take."""

_GAIN = 1.0 / 8.0  # of one cycle, in what they take


class CyclePlanner:
    """engine.cycle_queue.CyclePlanner for all sources of one model."""

    def __init__(
        self, arbiter: Arbiter, mtp: MtpProposer | None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """arbiter: decides the host's steps; clock: seconds."""
        self._arbiter = arbiter
        self._learner = arbiter.learner
        self._mtp = mtp
        self._clock = clock
        self._milliseconds: dict[tuple[int, int], float] = {}  # of a cycle, by sequences and depth
        self._num_refused = 0  # since cycles were last thought to pay
        self._num_heard = 0  # since they began
        self._heard = 0.0  # when last
        self._taken = 0.0  # milliseconds, by the last one

    def depth(self, sequences: Seq[Sequence]) -> int | None:
        """That of the largest gain, all sequences together; None: a plan is due, or the host's steps gain more."""
        gains = [self._gains(sequence, len(sequences)) for sequence in sequences]
        known = [gain for gain in gains if gain is not None]
        if len(known) < len(gains):
            return None
        shared = [sum(at_depth) for at_depth in zip(*known, strict=False)]
        values = [gain + self._saving(len(sequences), depth) for depth, gain in enumerate(shared)]
        best = max(range(len(values)), key=values.__getitem__)
        if values[best] == -math.inf:
            return None  # of several fixed depths
        is_known = any(count == len(sequences) for count, _ in self._milliseconds)  # else it is to be tried
        if is_known and values[best] < sum(map(self._gain_of_host, sequences)):
            self._refuse()
            return None
        self._num_refused = self._num_heard = 0
        return best

    def start(self, sequence: Sequence, depth: int) -> CycleStart | None:
        assert depth == 0 or self._mtp is not None
        return plain_start(sequence) if self._mtp is None else self._mtp.cycle_start(sequence, depth)

    def claim(self, sequence: Sequence, depth: int, end: int) -> bool:
        return self._mtp is None or self._mtp.claim(sequence, depth, end)

    def goes_on(self, sequences: Seq[Sequence]) -> bool:
        return not any(self._is_host_due(sequence, len(sequences)) for sequence in sequences)

    def hear(self, finished: FinishedCycle) -> None:
        """Keep what the heads computed, and let the text judge their drafts."""
        for rows in finished.batch.rows:
            if rows.draft.token_ids:
                assert self._mtp is not None
                self._mtp.keep_cycle(rows.sequence, finished.result.outputs, rows.first_row)
                draft = rows.draft
                self._learner.guess_heads(rows.sequence, draft.token_ids, draft.confidence, is_shadow=False)
        self._time(len(finished.result.num_accepted), finished.result.draft_ids.shape[1])

    def observe(self, batch: ScheduledBatch, hidden: Tensor, verdicts: Seq[Verdict | None]) -> None:
        """Of a cycle that is committed: as Arbiter.observe, but that nothing is learnt of single passes."""
        if self._mtp is not None:
            self._mtp.observe(batch, hidden, verdicts)
        self._arbiter.copies.observe(batch, hidden, verdicts)
        self._learner.judge(batch)
        prices = None
        for rows in batch.rows:
            if rows.sequence.request.is_priced:
                track = self._learner.track(rows.sequence)
                track.until_plan, track.until_shadow = track.until_plan - 1, track.until_shadow - 1
                track.num_steps += 1
                prices = self._prices(len(batch.rows))
        if prices is not None and self._num_heard > SETTLED:
            prices.earn(sum(len(verdict.token_ids) for verdict in verdicts if verdict is not None), self._taken)
        self._report(batch, verdicts, prices)

    def _report(self, batch: ScheduledBatch, verdicts: Seq[Verdict | None], prices: ClassPrices | None) -> None:
        """Tell who listens: it takes as long as it took since the one before."""
        arbiter = self._arbiter
        if arbiter.on_step is not None:
            began, count = self._heard - 1e-3 * self._taken, len(batch.rows)
            this = Round(started=began, proposed=began, num_sequences=count, num_rows=count, prices=prices)
            this.rate = 0.0 if prices is None else prices.rate
            report(arbiter.on_step, arbiter.num_steps, this, batch, verdicts, self._heard, 0)
        arbiter.num_steps += 1

    # --- what drafts gain ---
    def _gains(self, sequence: Sequence, num_sequences: int) -> list[float] | None:
        """Tokens gained by each depth over none; None: the next step has to be the host's."""
        request = sequence.request
        if self._is_host_due(sequence, num_sequences):
            return None
        if not self._is_priced(sequence):
            fixed = 0 if self._mtp is None else min(request.depth, self._mtp.max_depth)
            return [*[-math.inf] * fixed, 0.0]
        prices, track = self._prices(num_sequences), self._learner.track(sequence)
        assert prices is not None
        depth = track.plan.depth if self._has_heads(sequence) and track.plan.value > 0.0 else 0
        if depth == 0:
            return [0.0]
        sharers = [float(num_sequences)] * depth
        drafting, verifying = chain_prices(prices, self._learner.heads, num_sequences, num_sequences, sharers)
        gains, reached = [0.0], 1.0
        for step in range(depth):
            reached *= track.heads[step].mean
            gains.append(gains[-1] + reached - drafting[step] - verifying[step])
        return gains

    def _gain_of_host(self, sequence: Sequence) -> float:
        """Of a step that stops drafting where margins are small."""
        if not self._is_priced(sequence):
            return -math.inf
        return max(self._learner.track(sequence).plan.value, 0.0) if self._has_heads(sequence) else 0.0

    def _is_host_due(self, sequence: Sequence, num_sequences: int) -> bool:
        request = sequence.request
        if not self._is_priced(sequence):
            return request.depth > 0 and request.speculation.mode == "copy"
        track = self._learner.track(sequence)
        is_shadow_due = track.plan.value <= 0.0 and track.until_shadow <= 1
        if self._has_heads(sequence) and (track.until_plan <= 1 or is_shadow_due):
            return True
        return request.speculation.mode != "mtp" and self._has_copy(sequence, num_sequences)

    def _has_copy(self, sequence: Sequence, num_sequences: int) -> bool:
        """True where a copy would gain more than the heads, or it is not known what copies gain."""
        limit = min(sequence.request.depth, sequence.num_remaining_tokens - 1)
        match = self._arbiter.copies.continuation(sequence, limit)
        if match is None:
            return False
        acceptance, track, prices = self._learner.acceptance, self._learner.track(sequence), self._prices(num_sequences)
        first = acceptance.resumed if match.is_resumed else None
        if prices is None or (first or acceptance.copy).num_seen < ENOUGH:
            return True
        chain = acceptance.copy_chain(track, match.length, len(match.token_ids), first)
        return best_length(chain, prices.rate, prices.cost, num_sequences)[1] > max(track.plan.value, 0.0)

    def _has_heads(self, sequence: Sequence) -> bool:
        return self._mtp is not None and sequence.request.speculation.mode != "copy"

    def _is_priced(self, sequence: Sequence) -> bool:
        return sequence.request.is_priced and self._learner.prices is not None

    def _prices(self, num_sequences: int) -> ClassPrices | None:
        return None if self._learner.prices is None else self._learner.prices.of(num_sequences)

    # --- what cycles take ---
    def _time(self, num_sequences: int, depth: int) -> None:
        now = self._clock()
        self._num_heard, self._heard, self._taken = self._num_heard + 1, now, 1e3 * (now - self._heard)
        if self._num_heard > SETTLED:
            known = self._milliseconds.get((num_sequences, depth), self._taken)
            self._milliseconds[num_sequences, depth] = known + (min(self._taken, 2.0 * known) - known) * _GAIN

    def _saving(self, num_sequences: int, depth: int) -> float:
        """Tokens gained by what a cycle takes less than the same in a step of the host's; of a depth that was never
        measured, as of the best one that was."""
        prices = self._prices(num_sequences)
        known = {case: taken for case, taken in self._milliseconds.items() if case[0] == num_sequences}
        if prices is None or not known:
            return 0.0
        if (num_sequences, depth) in known:
            known = {(num_sequences, depth): known[num_sequences, depth]}
        return prices.rate * max(self._predicted(prices, *case) - taken for case, taken in known.items())

    def _predicted(self, prices: ClassPrices, num_sequences: int, depth: int) -> float:
        """Milliseconds of such a step of the host's."""
        heads = sum(self._learner.heads(step) for step in range(depth))
        return prices.cost(num_sequences * (depth + 1)) + heads

    def _refuse(self) -> None:
        self._num_refused += 1
        if self._num_refused >= FORGOTTEN:
            self._num_refused = 0
            self._milliseconds.clear()
