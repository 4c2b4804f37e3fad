"""What a trace amounts to: shares by source, depths, expected and observed acceptance, predicted and actual times.

Numbers in, numbers out; field names are those of `stepahead trace --json`.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from stepahead.engine.trace import StepTrace

NUM_BINS = 10
SHORTEST_MS = 1e-6  # what takes less was not timed


@dataclass(frozen=True, slots=True)
class Source:
    """Steps that verified drafts of one source; "" those that verified none."""

    source: str
    num_steps: int
    num_draft_tokens: int
    num_accepted_tokens: int


@dataclass(frozen=True, slots=True)
class Depth:
    """Steps that verified so many draft tokens."""

    depth: int
    num_steps: int
    num_accepted_tokens: int


@dataclass(frozen=True, slots=True)
class Expectation:
    """Verified draft tokens of a position, or whose expected acceptance lies in a bin: what was expected, what came."""

    position: int  # from 1; of a bin its number, from 1
    num_draft_tokens: int
    expected: float  # mean
    accepted: float  # share


@dataclass(frozen=True, slots=True)
class Times:
    """Actual over predicted milliseconds of the passes that were priced."""

    num_passes: int
    median_ratio: float
    low_ratio: float  # a tenth of the passes is below
    high_ratio: float  # a tenth is above
    predicted_ms: float  # sums
    actual_ms: float


@dataclass(frozen=True, slots=True)
class TraceFigures:
    """Of one sequence's steps each, unless a name says passes: those serve all sequences that run side by side."""

    num_requests: int
    num_steps: int
    num_passes: int
    num_tokens: int  # accepted ones, and one more a step
    tokens_per_step: float
    tokens_per_second: float  # of the passes' own time
    sources: list[Source]
    depths: list[Depth]
    acceptance: list[Expectation]  # by position
    calibration: list[Expectation]  # by expected acceptance, in tenths; empty bins are left out
    verify_times: Times | None
    draft_times: Times | None
    throughput_low: float  # tokens a millisecond that drafts were priced with
    throughput_high: float
    num_steps_with_catch_up: int
    num_catch_up_rows: int
    num_shadow_steps: int  # that drafted more than they verified
    num_shadow_tokens: int  # drafted, not verified


def trace_figures(steps: Sequence[StepTrace]) -> TraceFigures:
    """`steps` are at least one."""
    passes = passes_of(steps)
    num_tokens = sum(step.num_accepted + 1 for step in steps)
    milliseconds = sum(one.actual_ms + one.actual_draft_ms for one in passes)
    shadows = [step.num_drafted - step.depth for step in steps if step.num_drafted > step.depth]
    catch_ups = [step.num_catch_up_rows for step in steps if step.num_catch_up_rows]
    return TraceFigures(
        num_requests=len({step.request_id for step in steps}),
        num_steps=len(steps),
        num_passes=len(passes),
        num_tokens=num_tokens,
        tokens_per_step=num_tokens / len(steps),
        tokens_per_second=1e3 * num_tokens / milliseconds if milliseconds > SHORTEST_MS else 0.0,
        sources=_by_source(steps),
        depths=_by_depth(steps),
        acceptance=_by_position(steps),
        calibration=_by_expectation(steps),
        verify_times=_times((one.predicted_ms, one.actual_ms) for one in passes),
        draft_times=_times((one.predicted_draft_ms, one.actual_draft_ms) for one in passes),
        throughput_low=min(step.throughput for step in steps),
        throughput_high=max(step.throughput for step in steps),
        num_steps_with_catch_up=len(catch_ups),
        num_catch_up_rows=sum(catch_ups),
        num_shadow_steps=len(shadows),
        num_shadow_tokens=sum(shadows),
    )


def passes_of(steps: Iterable[StepTrace]) -> list[StepTrace]:
    """One record for each pass: milliseconds are those of the pass, whoever shared it."""
    return list({step.step: step for step in steps}.values())


def means(values: Sequence[float], count: int) -> list[float]:
    """`values` cut into at most `count` stretches of about one length, the mean of each."""
    count = min(count, len(values))
    edges = [len(values) * number // count for number in range(count + 1)] if count else [0]
    return [statistics.fmean(values[start:end]) for start, end in pairwise(edges)]


def _by_source(steps: Iterable[StepTrace]) -> list[Source]:
    groups: dict[str, list[StepTrace]] = {}
    for step in steps:
        groups.setdefault(step.source, []).append(step)
    return [
        Source(name, len(group), sum(step.depth for step in group), sum(step.num_accepted for step in group))
        for name, group in sorted(groups.items())
    ]


def _by_depth(steps: Iterable[StepTrace]) -> list[Depth]:
    groups: dict[int, list[int]] = {}
    for step in steps:
        groups.setdefault(step.depth, []).append(step.num_accepted)
    return [Depth(depth, len(group), sum(group)) for depth, group in sorted(groups.items())]


def _verified(steps: Iterable[StepTrace]) -> Iterable[tuple[int, float, bool]]:
    """(position, expected acceptance, whether accepted) of the draft tokens that were verified and had been priced."""
    for step in steps:
        for position, probability in enumerate(step.probabilities[: step.depth], start=1):
            yield position, probability, position <= step.num_accepted


def _by_position(steps: Iterable[StepTrace]) -> list[Expectation]:
    return _grouped((position, probability, came) for position, probability, came in _verified(steps))


def _by_expectation(steps: Iterable[StepTrace]) -> list[Expectation]:
    return _grouped((bin_of(probability), probability, came) for _, probability, came in _verified(steps))


def bin_of(probability: float) -> int:
    """Which tenth a probability is in, from 1; what is outside of 0 to 1 counts to the nearest."""
    return max(1, min(NUM_BINS, int(probability * NUM_BINS) + 1))


def _grouped(tokens: Iterable[tuple[int, float, bool]]) -> list[Expectation]:
    groups: dict[int, list[tuple[float, bool]]] = {}
    for number, probability, came in tokens:
        groups.setdefault(number, []).append((probability, came))
    return [
        Expectation(
            number,
            len(group),
            statistics.fmean(probability for probability, _ in group),
            sum(came for _, came in group) / len(group),
        )
        for number, group in sorted(groups.items())
    ]


def _times(pairs: Iterable[tuple[float, float]]) -> Times | None:
    """None where nothing was predicted."""
    known = [(predicted, actual) for predicted, actual in pairs if predicted > SHORTEST_MS]
    if not known:
        return None
    ratios = sorted(actual / predicted for predicted, actual in known)
    return Times(
        num_passes=len(known),
        median_ratio=statistics.median(ratios),
        low_ratio=ratios[len(ratios) // 10],
        high_ratio=ratios[-1 - len(ratios) // 10],
        predicted_ms=sum(predicted for predicted, _ in known),
        actual_ms=sum(actual for _, actual in known),
    )
