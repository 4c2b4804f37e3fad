"""How many tokens to draft and to verify: one price for every draft token.

A decoding cycle earns tokens and costs milliseconds. At a throughput of `rate` tokens per millisecond, time t is worth
rate * t tokens, so a draft token is verified iff its cumulative acceptance exceeds rate times the marginal cost of its
row, and one more is drafted iff what it may earn exceeds what drafting it costs. Depth 0 falls out of the same rule.
That a threshold on the probability is optimal: Huang et al., "SpecDec++" (2024), theorem 1; that the price of time is
the throughput: Dinkelbach's argument for ratios of expectations.

Pure functions and values: no clock, no sequence, no model.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stepahead.engine.params import Speculation
from stepahead.errors import RequestError
from stepahead.models.model import DraftSpec

MAX_DRAFT = 15
"""Draft tokens of a step, whatever drafts them: 16 rows are where a pass stops being cheap."""

_GRID = np.linspace(0.0, 1.0, 33)

Weights = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """When a chain of heads is worth running, solved backwards from its last token.

    thresholds[j]: draft token j (0 the first) iff the cumulative acceptance of those before it exceeds this; above 1:
    never. value: tokens that a round gains over none, its costs paid.
    """

    value: float
    thresholds: tuple[float, ...]

    @property
    def depth(self) -> int:
        """Heads that the plan may use."""
        return next((j for j, threshold in enumerate(self.thresholds) if threshold >= 1.0), len(self.thresholds))


NO_PLAN = ChainPlan(0.0, ())


def plan_chain(
    rates: Seq[Seq[float]], weights: Seq[Seq[float]], draft_prices: Seq[float], row_prices: Seq[float]
) -> ChainPlan:
    """The plan for a chain whose token j has acceptance rates[j][b] in bin b, which occurs with weights[j][b].

    draft_prices[j] and row_prices[j]: what drafting and verifying token j cost, in tokens. The value of drafting token
    j, those before it accepted with probability P, is
        W_j(P) = -draft_prices[j] + sum_b weights[j][b] * max(0, P a_b - row_prices[j] + max(0, W_{j+1}(P a_b))).
    """
    later: Weights = np.zeros(len(_GRID))
    thresholds: list[float] = []
    for j in range(len(rates) - 1, -1, -1):
        reached = _GRID[:, None] * np.asarray(rates[j])[None, :]  # (grid, bins)
        then = np.maximum(np.interp(reached, _GRID, later), 0.0)
        value = np.maximum(reached - row_prices[j] + then, 0.0) @ np.asarray(weights[j]) - draft_prices[j]
        thresholds.append(_root(value))
        later = value
    return ChainPlan(float(later[-1]), tuple(reversed(thresholds)))


def _root(values: Weights) -> float:
    """Where on the grid the rising `values` become positive; 2 if nowhere."""
    above = int(np.searchsorted(values, 0.0, side="right"))
    if above == len(values):
        return 2.0
    if above == 0:
        return 0.0
    low, high = values[above - 1], values[above]
    return float(_GRID[above - 1] + (_GRID[above] - _GRID[above - 1]) * (-low / (high - low)))


def best_length(
    probabilities: Seq[float], rate: float, cost: Callable[[int], float], num_rows: int
) -> tuple[int, float]:
    """(tokens of one chain worth verifying, what they gain in tokens) beside num_rows rows that are run anyway.

    All lengths are compared: a pass may have steps, after which further rows cost little.
    """
    best, best_gain, gained, base = 0, 0.0, 0.0, cost(num_rows)
    for length, probability in enumerate(probabilities, start=1):
        gained += probability
        gain = gained - rate * (cost(num_rows + length) - base)
        if gain > best_gain:
            best, best_gain = length, gain
    return best, best_gain


def share_rows(chains: Seq[Seq[float]], rate: float, cost: Callable[[int], float], num_rows: int) -> list[int]:
    """How many tokens of each chain to verify in one pass, beside num_rows rows that are run anyway.

    chains[i][j]: cumulative acceptance, falling in j. The likeliest come first, whosever they are.
    """
    if len(chains) == 1:
        return [best_length(chains[0], rate, cost, num_rows)[0]]
    ranked = sorted((-probability, i) for i, chain in enumerate(chains) for probability in chain)
    count, _ = best_length([-probability for probability, _ in ranked], rate, cost, num_rows)
    lengths = [0] * len(chains)
    for _, i in ranked[:count]:
        lengths[i] += 1
    return lengths


def resolve_depth(speculation: Speculation, draft: DraftSpec | None) -> int:
    """The most draft tokens a step for one request, 0: none. Raises RequestError for what the model cannot do."""
    num_heads = draft.num_heads if draft is not None else 0
    if speculation.mode == "off":
        return 0
    if speculation.mode == "mtp" and num_heads == 0:
        raise RequestError('mode="mtp" needs MTP heads, and this model file has none: give "auto", "copy" or "off"')
    uses_heads_only = speculation.mode == "mtp" or (speculation.mode == "auto" and not speculation.adaptive)
    if not uses_heads_only:
        return _within(speculation.depth, MAX_DRAFT, MAX_DRAFT, "a draft has")
    if draft is None or num_heads == 0:
        return 0
    heads = "one MTP head, used again for each draft token," if draft.is_recurrent else _heads(num_heads)
    return _within(speculation.depth, num_heads, draft.max_depth, f"this model has {heads} and allows")


def _within(depth: int | None, default: int, limit: int, subject: str) -> int:
    if depth is None:
        return default
    if depth > limit:
        raise RequestError(f"depth={depth} is out of range: {subject} 1 to {limit}, or 0 for none")
    return depth


def _heads(num_heads: int) -> str:
    return "one MTP head" if num_heads == 1 else f"{num_heads} MTP heads"
