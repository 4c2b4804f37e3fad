"""What drafts are expected to gain, from what passes cost and how often drafts are right. Arithmetic, no clocks."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np

from stepahead.speculative.cost import CostSeed

Overlap = dict[int, float]
"""Rows of a pass -> experts they touch, as a multiple of what one row touches."""


@dataclass(frozen=True, slots=True)
class Overhead:
    """Milliseconds that passes alone do not explain."""

    step_ms: float = 0.0  # of every step
    draft_ms: float = 0.0  # of every draft token


@dataclass(frozen=True, slots=True)
class Expectation:
    """Decoding at one depth."""

    depth: int
    tokens_per_cycle: float
    cycle_ms: float
    gain: float  # times the speed without drafts


def expectations(
    cost: CostSeed, acceptance: Seq[float], overlap: Overlap, overhead: Overhead
) -> tuple[Expectation, ...]:
    """For each depth from 1 on. acceptance[j]: the share of drafts whose first j + 1 tokens are all right."""
    return tuple(_expectation(cost, acceptance[:depth], overlap, overhead) for depth in range(1, len(acceptance) + 1))


def pass_ms(cost: CostSeed, num_rows: int, overlap: Overlap) -> float:
    """A pass of the trunk. The seed's rows were tokens at random; a text's share more experts, or fewer."""
    milliseconds = float(np.interp(num_rows, cost.rows, cost.pass_ms))
    if num_rows in overlap and cost.num_experts[0] > 0:
        assumed = float(np.interp(num_rows, cost.rows, cost.num_experts))
        milliseconds += cost.ms_per_expert * (overlap[num_rows] * cost.num_experts[0] - assumed)
    return max(milliseconds, cost.pass_ms[0])


def draft_ms(cost: CostSeed, depth: int, num_accepted: float) -> float:
    """The heads' passes of a cycle: each of them also runs the rows of what was accepted in the cycle before."""
    last = len(cost.head_ms) - 1
    return sum(cost.head_ms[min(step, last)] for step in range(depth)) + cost.head_row_ms * depth * num_accepted


def _expectation(cost: CostSeed, acceptance: Seq[float], overlap: Overlap, overhead: Overhead) -> Expectation:
    depth, num_accepted = len(acceptance), sum(acceptance)
    passes = pass_ms(cost, depth + 1, overlap) + draft_ms(cost, depth, num_accepted)
    cycle = passes + overhead.step_ms + overhead.draft_ms * depth
    tokens = 1.0 + num_accepted
    return Expectation(depth, tokens, cycle, tokens / cycle * (cost.pass_ms[0] + overhead.step_ms))
