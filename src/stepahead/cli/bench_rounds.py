"""Measures decoding at several draft depths, interleaved: every round runs every setting, each time in another order.

A machine's speed drifts; settings of one round share its minute, so ratios are taken within a round and the median
over rounds is reported. Prints nothing.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stepahead.cli.report import acceptance, total_stats
from stepahead.errors import RequestError

if TYPE_CHECKING:
    from stepahead import LLM, SamplingParams, Speculation, SpeculationStats, StreamChunk
    from stepahead.engine.metrics import Phase

PLAIN = "plain"
COPY = "copy"
AUTO = "auto"
PHASES: tuple["Phase", ...] = ("forward", "verify", "propose", "commit")


@dataclass(frozen=True, slots=True)
class Setting:
    """A row of the table to be."""

    name: str
    speculation: "Speculation"


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt, and what follows it: the model's own text, or a recording that stands in for its choices."""

    prompt: str
    max_tokens: int | None  # None: the whole recording
    recording: str | list[int] | None = None
    rates: tuple[float, ...] | None = None  # acceptance to force, by position; with a recording only

    def stream(self, llm: "LLM", params: "SamplingParams", speculation: "Speculation") -> Iterator["StreamChunk"]:
        params = replace(params, max_tokens=self.max_tokens)
        if self.recording is None:
            return llm.stream(self.prompt, params, speculation)
        return llm.stream_replay(self.prompt, self.recording, speculation, params, self.rates)


@dataclass(frozen=True, slots=True)
class Sample:
    """One setting in one round: sums over its cases, from each one's first token to its last."""

    num_tokens: int
    seconds: float
    num_steps: int
    phase_seconds: dict["Phase", float]
    token_ids: tuple[tuple[int, ...], ...]  # of each case
    stats: "SpeculationStats"

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds


@dataclass(frozen=True, slots=True)
class Row:
    """One setting, all rounds: counts are sums, milliseconds medians, a step."""

    name: str
    num_tokens: int  # timed in each round
    tokens_per_second: float  # median
    tokens_per_second_by_round: list[float]
    ratio_to_plain: float  # median of the ratios within each round
    tokens_per_step: float
    acceptance: list[float]  # share of the draft tokens at each position
    drafted_by_source: dict[str, int]
    accepted_by_source: dict[str, int]
    milliseconds: dict["Phase", float]  # phase -> a step
    is_same_text: bool  # as plain


@dataclass(frozen=True, slots=True)
class Choice:
    """What `auto` is worth: its speed beside that of the depth that one would have fixed, had one known."""

    best_fixed: str  # plain or a depth: the fastest in the median
    ratio: float  # of auto to it; median of the ratios within each round


def measure(
    llm: "LLM",
    cases: Seq[Case],
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
            sample = _sample(llm, cases, params, settings[index].speculation)
            if number > 0:
                samples[index].append(sample)
            num_runs += 1
            on_progress(num_runs, total)
    return [_row(setting, mine, samples[0]) for setting, mine in zip(settings, samples, strict=True)]


def choice(rows: list[Row]) -> Choice | None:
    """None where `auto` was not measured."""
    auto = next((row for row in rows if row.name == AUTO), None)
    if auto is None:
        return None
    fixed = [row for row in rows if row.name == PLAIN or row.name.isdecimal()]
    best = max(fixed, key=lambda row: row.tokens_per_second)
    return Choice(best.name, statistics.median(_ratios(auto.tokens_per_second_by_round, best)))


def _sample(llm: "LLM", cases: Seq[Case], params: "SamplingParams", speculation: "Speculation") -> Sample:
    num_tokens, num_steps, seconds = 0, 0, 0.0
    phases = dict.fromkeys(PHASES, 0.0)
    ids: list[tuple[int, ...]] = []
    stats: list[SpeculationStats] = []
    for case in cases:
        _forget_prefixes(llm)
        stream = case.stream(llm, params, speculation)
        first = next(stream)
        started, before = time.perf_counter(), _phases(llm)
        chunks = [first, *stream]
        seconds += time.perf_counter() - started
        after = _phases(llm)
        phases = {name: phases[name] + after[name] - before[name] for name in PHASES}
        completion = chunks[-1].completion
        assert completion is not None
        if len(chunks) == 1:
            raise RequestError(_too_short(case, len(completion.prompt_token_ids), llm.config.context_length))
        num_tokens += len(completion.token_ids) - len(first.token_ids_delta)
        num_steps += len(chunks) - 1
        ids.append(tuple(completion.token_ids))
        stats.append(completion.speculation)
    return Sample(num_tokens, seconds, num_steps, phases, tuple(ids), total_stats(stats))


def _forget_prefixes(llm: "LLM") -> None:
    """Every run reads its prompt itself: one that a plain run leaves in the cache has no rows for the heads."""
    llm.logits([0])  # teacher forcing takes all room


def _too_short(case: Case, num_prompt: int, context_length: int) -> str:
    if case.recording is not None:
        return "a recording of one token leaves nothing to time: give a longer one"
    return (
        f"a prompt of {num_prompt} tokens leaves no room to decode in a context of {context_length}: give a shorter one"
    )


def _phases(llm: "LLM") -> dict["Phase", float]:
    seconds = llm.metrics.seconds
    return {name: seconds[name] for name in PHASES}


def _ratios(mine: list[float], other: Row) -> list[float]:
    return [rate / beside for rate, beside in zip(mine, other.tokens_per_second_by_round, strict=True)]


def _row(setting: Setting, samples: list[Sample], plain: list[Sample]) -> Row:
    rates = [sample.tokens_per_second for sample in samples]
    ratios = [mine.tokens_per_second / other.tokens_per_second for mine, other in zip(samples, plain, strict=True)]
    stats = total_stats(sample.stats for sample in samples)
    return Row(
        name=setting.name,
        num_tokens=samples[0].num_tokens,
        tokens_per_second=statistics.median(rates),
        tokens_per_second_by_round=rates,
        ratio_to_plain=statistics.median(ratios),
        tokens_per_step=sum(sample.num_tokens for sample in samples) / sum(sample.num_steps for sample in samples),
        acceptance=acceptance(stats),
        drafted_by_source=stats.num_draft_tokens_by_source,
        accepted_by_source=stats.num_accepted_tokens_by_source,
        milliseconds={
            name: statistics.median(1e3 * sample.phase_seconds[name] / sample.num_steps for sample in samples)
            for name in PHASES
        },
        is_same_text=all(mine.token_ids == other.token_ids for mine, other in zip(samples, plain, strict=True)),
    )
