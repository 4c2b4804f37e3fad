"""Measures decoding at several draft depths, interleaved: every round runs every setting, each time in another order.

A machine's speed drifts; settings of one round share its minute, so ratios are taken within a round and the median
over rounds is reported. Prints nothing.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stepahead.cli.report import acceptance, total_stats
from stepahead.errors import RequestError

if TYPE_CHECKING:
    from stepahead import LLM, SamplingParams, Speculation, SpeculationStats
    from stepahead.engine.metrics import Phase

PLAIN = "plain"
PHASES: tuple["Phase", ...] = ("forward", "verify", "propose", "commit")


@dataclass(frozen=True, slots=True)
class Setting:
    """A row of the table to be."""

    name: str
    speculation: "Speculation"


@dataclass(frozen=True, slots=True)
class Sample:
    """One setting in one round: sums over its prompts, from each one's first token to its last."""

    num_tokens: int
    seconds: float
    num_steps: int
    phase_seconds: dict["Phase", float]
    token_ids: tuple[tuple[int, ...], ...]  # of each prompt
    stats: tuple["SpeculationStats", ...]

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds


@dataclass(frozen=True, slots=True)
class Row:
    """One setting, all rounds. Milliseconds are medians, a step."""

    name: str
    tokens_per_second: float  # median
    tokens_per_second_by_round: list[float]
    ratio_to_plain: float  # median of the ratios within each round
    tokens_per_step: float
    acceptance: list[float]  # share of the draft tokens at each position
    milliseconds: dict["Phase", float]  # phase -> a step
    is_same_text: bool  # as plain


def measure(
    llm: "LLM",
    prompts: list[str],
    params: "SamplingParams",
    settings: list[Setting],
    rounds: int,
    on_progress: Callable[[int, int], None],
) -> list[Row]:
    """A row for each setting; settings[0] is the plain one. One more round, not counted, warms caches up."""
    samples: list[list[Sample]] = [[] for _ in settings]
    num_runs, total = 0, (rounds + 1) * len(settings)
    for number in range(rounds + 1):
        for step in range(len(settings)):
            index = (step + number) % len(settings)
            sample = _sample(llm, prompts, params, settings[index].speculation)
            if number > 0:
                samples[index].append(sample)
            num_runs += 1
            on_progress(num_runs, total)
    return [_row(setting, mine, samples[0]) for setting, mine in zip(settings, samples, strict=True)]


def _sample(llm: "LLM", prompts: list[str], params: "SamplingParams", speculation: "Speculation") -> Sample:
    num_tokens, num_steps, seconds = 0, 0, 0.0
    phases = dict.fromkeys(PHASES, 0.0)
    ids: list[tuple[int, ...]] = []
    stats: list[SpeculationStats] = []
    for prompt in prompts:
        stream = llm.stream(prompt, params, speculation)
        first = next(stream)
        started, before = time.perf_counter(), _phases(llm)
        chunks = [first, *stream]
        seconds += time.perf_counter() - started
        after = _phases(llm)
        phases = {name: phases[name] + after[name] - before[name] for name in PHASES}
        completion = chunks[-1].completion
        assert completion is not None
        if len(chunks) == 1:
            raise RequestError(
                f"a prompt of {len(completion.prompt_token_ids)} tokens leaves no room to decode in a context of "
                f"{llm.config.context_length}: give a shorter one"
            )
        num_tokens += len(completion.token_ids) - len(first.token_ids_delta)
        num_steps += len(chunks) - 1
        ids.append(tuple(completion.token_ids))
        stats.append(completion.speculation)
    return Sample(num_tokens, seconds, num_steps, phases, tuple(ids), tuple(stats))


def _phases(llm: "LLM") -> dict["Phase", float]:
    seconds = llm.metrics.seconds
    return {name: seconds[name] for name in PHASES}


def _row(setting: Setting, samples: list[Sample], plain: list[Sample]) -> Row:
    rates = [sample.tokens_per_second for sample in samples]
    ratios = [mine.tokens_per_second / other.tokens_per_second for mine, other in zip(samples, plain, strict=True)]
    last = samples[-1]
    return Row(
        name=setting.name,
        tokens_per_second=statistics.median(rates),
        tokens_per_second_by_round=rates,
        ratio_to_plain=statistics.median(ratios),
        tokens_per_step=last.num_tokens / last.num_steps,
        acceptance=acceptance(total_stats(last.stats)),
        milliseconds={
            name: statistics.median(1e3 * sample.phase_seconds[name] / sample.num_steps for sample in samples)
            for name in PHASES
        },
        is_same_text=all(mine.token_ids == other.token_ids for mine, other in zip(samples, plain, strict=True)),
    )
