"""Whether counting distinct experts prices passes better than counting rows: python -m benchmarks.pricing [MODEL].

Built-in texts are replayed at depths 0 to 3. Two models of what a pass costs (speculative/cost.py) hear of the same
passes, in order of position within a text, as if depths had taken turns: one is told rows and milliseconds, the other
the distinct experts, too. Each predicts a pass before it hears of it. Texts that the model would not write need
--synth-rates if its heads are not trained: wrong drafts touch other experts than right ones.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stepahead import LLM, Speculation, __version__, texts
from stepahead.engine.trace import StepTrace
from stepahead.errors import ConfigError, StepaheadError
from stepahead.machine import cpu_name
from stepahead.speculative.cost import MAX_ROWS, CostSeed, PassCost, interpolate

MAX_DEPTH = 3
ALL = "all"
Floats = npt.NDArray[np.float64]
NAMES = ("rows only", "and experts", "if known")
"""If the experts of a pass were known before it, its rows priced without them: the most that counting could give."""


@dataclass(frozen=True, slots=True)
class Step:
    """One pass of the trunk; growth[j]: distinct experts of its first j + 1 rows."""

    kind: str
    position: int
    num_rows: int
    milliseconds: float  # 0: a whole prompt, whose experts alone are of interest
    growth: tuple[int, ...]


@dataclass(slots=True)
class Figures:
    """Of one kind of text. errors[i]: |predicted - actual| / actual of contender i, a verify pass each."""

    errors: tuple[list[float], ...] = field(default_factory=lambda: tuple([] for _ in NAMES))
    chosen: list[tuple[int, int]] = field(default_factory=list)  # depth by either price
    lost: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))  # share of the best tokens/ms


@dataclass(frozen=True, slots=True)
class Recording:
    kind: str
    prompt: list[int]
    tokens: list[int]


def recordings(llm: LLM, num_tokens: int) -> list[Recording]:
    """The first text of each kind, the second of each ...; of a text without continuation its own end is one."""
    found: list[Recording] = []
    for same_number in zip(*(texts.load(kind) for kind in texts.KINDS), strict=True):
        for text in same_number:
            ids = llm.tokenize(text.prompt)
            if text.continuation is not None:
                tokens = llm.tokenizer.encode(text.continuation, add_bos=False)[:num_tokens]
            else:
                count = min(num_tokens, len(ids) // 2)
                ids, tokens = ids[:-count], ids[-count:]
            found.append(Recording(text.kind, ids[-(llm.config.context_length - len(tokens)) :], tokens))
    return found


def decode(llm: LLM, text: Recording, depth: int, rates: Sequence[float] | None) -> list[Step]:
    steps: list[Step] = []

    def hear(record: StepTrace) -> None:
        is_prompt = record.num_rows == record.position  # all of it, from the first row on
        if is_prompt or record.num_rows == 1 + record.depth:
            milliseconds = 0.0 if is_prompt else record.actual_ms
            growth = llm.backend.routed_experts()  # of this pass: no head has run since
            steps.append(Step(text.kind, record.position, record.num_rows, milliseconds, growth))

    speculation = Speculation("mtp", depth, adaptive=False) if depth else Speculation("off")
    llm.on_step = hear
    try:
        llm.replay(text.prompt, text.tokens, speculation, rates=rates if depth else None)
    finally:
        llm.on_step = None
    return steps


def measure(llm: LLM, num_tokens: int, num_rounds: int, rates: Sequence[float] | None) -> list[Step]:
    assert llm.model.draft is not None
    depths, order = range(min(MAX_DEPTH, llm.model.draft.max_depth) + 1), np.random.default_rng(0)
    found = recordings(llm, num_tokens)
    for depth in depths:
        decode(llm, found[0], depth, rates)  # warms up
    steps: list[Step] = []
    for _ in range(num_rounds):
        for text in found:
            runs = [decode(llm, text, int(depth), rates) for depth in order.permutation(depths)]
            steps += sorted((step for run in runs for step in run), key=lambda step: (step.position, step.num_rows))
    return steps


def usual_costs(steps: Iterable[Step]) -> dict[str, dict[int, float]]:
    """The median pass of each kind of text and number of rows: what a choice of depth is judged by."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for step in steps:
        if step.milliseconds > 0.0:
            found[step.kind][step.num_rows].append(step.milliseconds)
    return {kind: {rows: float(np.median(ms)) for rows, ms in of.items()} for kind, of in found.items()}


def compare(seed: CostSeed, steps: Sequence[Step]) -> dict[str, Figures]:
    """Figures by kind, and of all. Acceptance is drawn for each step anew, so that every depth is the best at times."""
    by_rows, by_experts, others = PassCost(seed), PassCost(seed), PassCost(seed)
    usual_experts = interpolate(seed.rows, seed.num_experts, MAX_ROWS)
    usual, rng = usual_costs(steps), np.random.default_rng(1)
    deepest = min(max(times) for times in usual.values()) - 1
    heads = np.concatenate([[0.0], np.cumsum([*seed.head_ms, *[seed.head_ms[-1]] * deepest][:deepest])])
    found: dict[str, Figures] = defaultdict(Figures)
    for step in steps:
        if step.milliseconds <= 0.0:
            by_experts.learn_growth(step.growth)
            continue
        rows, actual = step.num_rows, step.milliseconds
        of_experts = seed.ms_per_expert * (step.growth[-1] - usual_experts[rows])
        predictions = (by_rows(rows), by_experts(rows), others(rows) + of_experts)
        tokens = np.concatenate([[1.0], 1.0 + np.cumsum(np.cumprod(rng.uniform(size=deepest)))])
        times = usual[step.kind]
        real = tokens / np.array([times.get(1 + depth, np.inf) + heads[depth] for depth in range(1 + deepest)])
        chosen = (_best(tokens, by_rows, heads), _best(tokens, by_experts, heads))
        for figures in (found[step.kind], found[ALL]):
            if rows > 1:
                for errors, predicted in zip(figures.errors, predictions, strict=True):
                    errors.append(abs(predicted - actual) / actual)
            figures.chosen.append(chosen)
            for lost, depth in zip(figures.lost, chosen, strict=True):
                lost.append(1.0 - float(real[depth] / real.max()))
        by_rows.learn(rows, actual)
        by_experts.learn(rows, actual, step.growth)
        others.learn(rows, max(actual - of_experts, 0.0))
    return found


def _best(tokens: Floats, cost: PassCost, heads: Floats) -> int:
    """The depth of the most tokens a millisecond."""
    return int(np.argmax(tokens / (np.array([cost(1 + depth) for depth in range(len(tokens))]) + heads)))


def as_text(found: dict[str, Figures]) -> str:
    """Percent throughout."""
    lines = ["|predicted - actual| / actual of verify passes: median, 90th percentile; tokens/ms lost by choice", ""]
    lines.append(f"{'':<13}{'passes':>7}" + "".join(f"{name:>20}" for name in NAMES) + f"{'other depth':>13}")
    for kind in (*(kind for kind in found if kind != ALL), ALL):
        figures, cells = found[kind], ""
        for number, errors in enumerate(figures.errors):
            lost = f"{100 * np.mean(figures.lost[number]):6.2f}" if number < len(figures.lost) else f"{'':6}"
            cells += f"{100 * np.median(errors):7.1f}{100 * np.percentile(errors, 90):7.1f}{lost}"
        differs = np.mean([first != second for first, second in figures.chosen])
        lines.append(f"{kind:<13}{len(figures.errors[0]):>7}{cells}{100 * differs:>13.1f}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pricing", description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", help="a GGUF file with heads; default: the demo model")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64, help="of each text; default: 64")
    parser.add_argument("--threads", type=int, help="default: the cores")
    parser.add_argument("--synth-rates", metavar="A,B,C", help="cumulative acceptance of the heads' drafts")
    options = parser.parse_args(arguments)
    load = LLM.demo if options.model is None else lambda **settings: LLM(options.model, **settings)
    try:
        rates = None if options.synth_rates is None else tuple(float(rate) for rate in options.synth_rates.split(","))
        with load(threads=options.threads, max_num_seqs=1) as llm:
            seed = llm.costs()
            if not seed.head_ms or not seed.num_experts[0]:
                raise ConfigError(f"{llm.info.name} has no heads or no experts: there is nothing to compare")
            found = compare(seed, measure(llm, max(options.tokens, 2), max(options.rounds, 1), rates))
            asked = "the heads' own" if rates is None else options.synth_rates
            sys.stdout.write(
                f"{llm.info.name} on {cpu_name()}, {llm.threads} threads, stepahead {__version__}; drafts: {asked}; "
                f"{1e3 * seed.ms_per_expert:.2f} us an expert\n{as_text(found)}\n"
            )
    except (StepaheadError, ValueError) as error:
        sys.stderr.write(f"pricing: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
