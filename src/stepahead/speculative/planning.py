"""Which sequences' heads draft, and how far: decided for all of them together, because they share the passes.

A pass of a head takes about as long for one sequence as for four. So each that drafts pays its part of it; who would
not gain at that price leaves, which raises the price for the others, until all who are left gain. Knows tracks and
prices; nothing of tokens or passes.
"""

from collections.abc import Sequence as Seq

from stepahead.speculative.acceptance import HEADS_ENOUGH, Acceptance
from stepahead.speculative.cost import HeadCost
from stepahead.speculative.policy import NO_PLAN, ChainPlan, plan_chain
from stepahead.speculative.prices import ClassPrices, chain_prices
from stepahead.speculative.track import Track

Candidate = tuple[Track, int]
"""A sequence's track, and the most tokens that its heads may draft."""


def plan_together(
    candidates: Seq[Candidate],
    acceptance: Acceptance,
    prices: ClassPrices,
    heads: HeadCost,
    num_rows: int,
    num_sequences: int,
) -> int:
    """Set the plan of each track; returns how many share the first pass, at least 1. num_rows: that are run anyway."""
    if acceptance.heads[0].num_seen < HEADS_ENOUGH:
        for track, _ in candidates:
            track.plan, track.until_plan = NO_PLAN, 1
        return 1
    depths = [depth for _, depth in candidates]
    plans = [NO_PLAN] * len(candidates)
    while any(depths):
        sharers = _sharers(candidates, depths)
        plans = [
            _plan(track, acceptance, *chain_prices(prices, heads, num_rows, num_sequences, sharers[:depth]))
            for (track, _), depth in zip(candidates, depths, strict=True)
        ]
        wanted = [plan.depth if plan.value > 0.0 else 0 for plan in plans]
        if wanted == depths or len(candidates) == 1:
            break
        depths = wanted
    for (track, _), plan in zip(candidates, plans, strict=True):
        track.planned(plan)
    soonest = min(track.until_plan for track, _ in candidates)
    for track, _ in candidates:
        track.until_plan = soonest  # together again
    return max(sum(plan.value > 0.0 for plan in plans), 1)


def _sharers(candidates: Seq[Candidate], depths: Seq[int]) -> list[float]:
    """Expected sequences in each pass of a round: chains go on where they are likely to be right, to their depth."""
    found: list[float] = []
    reached = [1.0] * len(candidates)
    for step in range(max(depths)):
        pairs = zip(reached, depths, strict=True)
        found.append(max(sum(chance for chance, depth in pairs if depth > step), 1.0))
        reached = [chance * track.heads[step].mean for chance, (track, _) in zip(reached, candidates, strict=True)]
    return found


def _plan(track: Track, acceptance: Acceptance, drafting: Seq[float], verifying: Seq[float]) -> ChainPlan:
    """Of a chain as long as there are prices."""
    depth = len(drafting)
    # Nobody who was left out: or every lucky draft in the shadow would have all of them plan again.
    track.may_pay = any(draft + row < 1.0 for draft, row in zip(drafting, verifying, strict=True))
    if not depth:
        return NO_PLAN
    rates, weights = acceptance.chain_rates(track, depth), [recent.weights for recent in track.heads[:depth]]
    if _most_accepted(rates, weights[0]) <= drafting[0]:
        return NO_PLAN  # not even if all but the first pass were free
    return plan_chain(rates, weights, drafting, verifying)


def _most_accepted(rates: Seq[Seq[float]], first_weights: Seq[float]) -> float:
    """More tokens than any plan may hope for: each but the first as likely as its best margin makes it."""
    most = 1.0
    for later in reversed(rates[1:]):
        most = 1.0 + max(later) * most
    return most * sum(weight * rate for weight, rate in zip(first_weights, rates[0], strict=True))
