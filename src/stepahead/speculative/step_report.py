"""Tells whoever listens what a step did, what it was expected to do, and at what prices: a `StepTrace` a sequence."""

import itertools
from collections.abc import Sequence as Seq

from stepahead.engine.batch import ScheduledBatch, ScheduledRows
from stepahead.engine.request import Verdict
from stepahead.engine.trace import OnStep, StepTrace
from stepahead.speculative.bid import Round


def report(
    on_step: OnStep,
    step: int,
    this: Round,
    batch: ScheduledBatch,
    verdicts: Seq[Verdict | None],
    now: float,
    num_experts: int,
) -> None:
    """After the step: a record for each sequence that it brought tokens. `now`: seconds, by the clock of the round."""
    for rows, verdict in zip(batch.rows, verdicts, strict=True):
        if verdict is not None:
            on_step(_trace(step, this, batch, rows, len(verdict.accepted_ids), now, num_experts))


def _trace(
    step: int, this: Round, batch: ScheduledBatch, rows: ScheduledRows, num_accepted: int, now: float, num_experts: int
) -> StepTrace:
    bid = this.bids.get(rows.sequence.request.request_id)
    chain = () if bid is None else tuple(bid.chain)
    depth = len(rows.draft.token_ids)
    return StepTrace(
        step=step,
        request_id=rows.sequence.request.request_id,
        position=rows.end - depth,
        num_sequences=len(batch.rows),
        num_rows=batch.num_rows,
        source=rows.draft.source if depth else "",
        depth=depth,
        num_drafted=max(len(chain), depth),
        probabilities=chain,
        prices=_prices(this, len(chain)),
        throughput=this.rate,
        predicted_ms=0.0 if this.prices is None else this.prices.cost(batch.num_rows),
        actual_ms=1e3 * (now - this.proposed),
        predicted_draft_ms=this.predicted_draft_ms,
        actual_draft_ms=this.actual_draft_ms,
        num_accepted=num_accepted,
        num_catch_up_rows=this.num_catch_up_rows,
        num_experts=num_experts,
    )


def _prices(this: Round, count: int) -> tuple[float, ...]:
    """In tokens, of verifying each of `count` draft tokens beside the rows that the pass has anyway."""
    if this.prices is None:
        return ()
    costs = [this.prices.cost(this.num_rows + number) for number in range(count + 1)]
    return tuple(this.rate * (after - before) for before, after in itertools.pairwise(costs))
