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
    """Set the plan of each track; returns how many of them draft. num_rows: what the pass has anyway."""
    if acceptance.heads[0].num_seen < HEADS_ENOUGH:
        for track, _ in candidates:
            track.plan, track.until_plan = NO_PLAN, 1
        return 0
    drafting, plans = list(candidates), list[ChainPlan]()
    while drafting:
        sharers = _sharers([track for track, _ in drafting], max(depth for _, depth in drafting))
        plans = [
            _plan(track, depth, acceptance, *chain_prices(prices, heads, num_rows, num_sequences, sharers[:depth]))
            for track, depth in drafting
        ]
        if all(plan.value > 0.0 for plan in plans):
            break
        drafting = [candidate for candidate, plan in zip(drafting, plans, strict=True) if plan.value > 0.0]
    found = {id(track): plan for (track, _), plan in zip(drafting, plans, strict=False)} if drafting else {}
    for track, _ in candidates:
        track.planned(found.get(id(track), NO_PLAN))
    soonest = min(track.until_plan for track, _ in candidates)
    for track, _ in candidates:
        track.until_plan = soonest  # together again
    return len(drafting)


def _sharers(tracks: Seq[Track], depth: int) -> list[float]:
    """Expected sequences in each pass of a round: chains go on where they are likely to be right."""
    found: list[float] = []
    reached = [1.0] * len(tracks)
    for step in range(depth):
        found.append(max(sum(reached), 1.0))
        reached = [before * track.heads[step].mean for before, track in zip(reached, tracks, strict=True)]
    return found


def _plan(track: Track, depth: int, acceptance: Acceptance, drafting: Seq[float], verifying: Seq[float]) -> ChainPlan:
    track.may_pay = any(draft + row < 1.0 for draft, row in zip(drafting, verifying, strict=True))
    if track.heads[0].mean * depth <= drafting[0]:
        return NO_PLAN  # not even if all that follows were right and free
    rates = acceptance.chain_rates(track, depth)
    return plan_chain(rates, [recent.weights for recent in track.heads[:depth]], drafting, verifying)
