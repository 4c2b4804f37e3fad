"""M4: decoding with Step's layers and random weights, plain and with three heads, beside the bytes that are read."""

import contextlib
import enum
import itertools
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.cuda.bench import Bench
from benchmarks.cuda.byte_bounds import SLIM_COLUMNS, cycle_nbytes, head_nbytes, matrix_nbytes, tokens_per_cycle
from benchmarks.cuda.decoding import Cycle, Steps, by_host, measured, request, running, text
from benchmarks.cuda.made_model import MadeModel, made_model
from stepahead.engine.engine import Engine
from stepahead.engine.teacher import trunk_logits

RATES = (0.80, 0.60, 0.45)
"""Share of drafts whose first 1, 2, 3 tokens are right."""
PROMPT, TEXT, SHORT_TEXT = 3800, 32, 8
STEPS, EAGER_STEPS, TOY_STEPS = Steps(24, 48, 6), Steps(3, 12, 3), Steps(1, 1, 0)
CHUNK = 2048
LOGIT_CHUNKS, MAX_REPLAYED = (96, 33, 16, 4, 3, 1), 16
PROFILED_STEPS, LISTED_KERNELS = 4, 24


class Way(enum.Enum):
    """How a step comes to run on the device; the best one first."""

    CYCLES = "cycles"  # the device is a cycle ahead of the host
    HOST = "replayed by the host"  # one pass after the other, and its tokens are waited for
    EAGER = "eager"


@dataclass(frozen=True, slots=True)
class Setting:
    way: Way
    is_shared: bool = False
    depth: int = 0
    is_slim: bool = False

    @property
    def name(self) -> str:
        drafts = f"depth {self.depth}{', slim heads' if self.is_slim else ''}" if self.depth else "plain"
        experts = "a third shared" if self.is_shared else "random experts"
        return f"{drafts}, {experts}, {self.way.value}"

    @property
    def model(self) -> tuple[bool, bool, bool]:
        """Settings with the same can have one engine."""
        return self.way is not Way.EAGER, self.is_shared, self.is_slim


@dataclass(frozen=True, slots=True)
class Outcome:
    """rate, bound: tokens a second, measured and if nothing but bytes took time; whole_rate: scaled to all layers."""

    rate: float
    bound: float
    whole_rate: float
    share: float
    cycle: Cycle


def measure(bench: Bench) -> None:
    made = made_model(bench)
    layers = f"{made.shape.num_trunk} of {made.whole.num_trunk} layers"
    bench.report("M4", "model", layers=layers, gb=made.nbytes / 1e9)
    made.share_experts(False)
    _same_logits(bench, made)
    if not bench.is_toy and bench.has_time("M4", "texts"):
        _same_texts(bench, made)
    outcomes: dict[Setting, Outcome] = {}
    for _, settings in itertools.groupby(_settings(bench), key=lambda setting: setting.model):
        outcomes |= _outcomes(bench, made, list(settings))
        bench.free_memory()
    _judge(bench, outcomes)
    made.share_experts(False)
    made.slim_heads(False)
    for depth in (0,) if bench.is_toy else (0, len(RATES)):
        if bench.has_time("M4", "launches"):
            _count_launches(bench, made, depth, outcomes.get(Setting(Way.CYCLES, depth=depth)))
    if not bench.is_toy and bench.has_time("M4", "kernels"):
        try:
            _list_kernels(bench, made)
        except Exception as error:  # there may be no profiler, and nothing else hangs on it
            bench.report("M4", "kernels", skipped=f"{type(error).__name__}: {error}".splitlines()[0][:200])


def _settings(bench: Bench) -> list[Setting]:
    """What targets ask for comes first, but that the host's steps have what was recorded for random experts."""
    if bench.is_toy:
        return [Setting(Way.CYCLES, True, 1)]
    depths, most = range(len(RATES) + 1), len(RATES)
    found = [Setting(Way.CYCLES, False, depth) for depth in depths]
    found += [Setting(Way.HOST, False, depth) for depth in (0, most)]
    found += [Setting(Way.CYCLES, True, depth) for depth in depths]
    found += [Setting(Way.CYCLES, is_shared, most, is_slim=True) for is_shared in (False, True)]
    return [*found, *(Setting(Way.EAGER, False, depth) for depth in (0, most))]


def _prompt(bench: Bench, made: MadeModel, seed: int) -> list[int]:
    ids = np.random.default_rng(seed).integers(0, made.shape.vocab, 2 if bench.is_toy else PROMPT)
    return [int(number) for number in ids]


def _outcomes(bench: Bench, made: MadeModel, settings: list[Setting]) -> dict[Setting, Outcome]:
    """Of settings that have one engine: what was recorded for one of them, others replay too."""
    first = settings[0]
    if not bench.has_time("M4", f"{first.name} and {len(settings) - 1} more"):
        return {}
    made.share_experts(first.is_shared)
    made.slim_heads(first.is_slim)
    prompt = _prompt(bench, made, 1)
    context = len(prompt) + max(_num_tokens(bench, setting) for setting in settings) + 16
    engine = made.engine(context, 8 if bench.is_toy else CHUNK, first.way is not Way.EAGER)
    return {
        setting: _outcome(bench, made, engine, setting, prompt)
        for setting in settings
        if bench.has_time("M4", setting.name)
    }


def _outcome(bench: Bench, made: MadeModel, engine: Engine, setting: Setting, prompt: list[int]) -> Outcome:
    asked = request(prompt, _num_tokens(bench, setting), setting.depth, RATES, made.shape.vocab)
    with contextlib.nullcontext() if setting.way is Way.CYCLES else by_host(engine):
        cycle = measured(engine, asked, _steps(bench, setting), made.num_expert_layers)
    outcome = _judged(bench, made, setting, cycle)
    facts: dict[str, float] = {}
    if cycle.device_seconds is not None and cycle.between_seconds is not None:
        facts = {
            "host_share": cycle.unhidden_share or 0.0,
            "graphs_ms": 1e3 * cycle.device_seconds,
            "between_graphs_ms": 1e3 * cycle.between_seconds,
        }
    bench.report(
        "M4", setting.name, ms=1e3 * cycle.seconds, experts_a_layer=cycle.experts, tokens_s=outcome.rate,
        bound_tokens_s=outcome.bound, share_of_bound=outcome.share, all_layers_tokens_s=outcome.whole_rate,
        ran_ahead=cycle.ahead, host_busy_ms=1e3 * cycle.host_seconds, **facts, warming_up_s=cycle.warming_up,
    )  # fmt: skip
    return outcome


def _steps(bench: Bench, setting: Setting) -> Steps:
    return TOY_STEPS if bench.is_toy else EAGER_STEPS if setting.way is Way.EAGER else STEPS


def _num_tokens(bench: Bench, setting: Setting) -> int:
    return _steps(bench, setting).total * (setting.depth + 1) + 8


def _judged(bench: Bench, made: MadeModel, setting: Setting, cycle: Cycle) -> Outcome:
    columns = SLIM_COLUMNS if setting.is_slim else None
    nbytes, whole = (
        cycle_nbytes(shape, cycle.context, setting.depth, cycle.experts, columns) for shape in (made.shape, made.whole)
    )
    tokens = tokens_per_cycle(RATES, setting.depth)
    # What does not grow with layers takes as long as its bytes: a better path there would help the whole less.
    fixed = matrix_nbytes(made.shape.output_type, made.shape.vocab, made.shape.hidden)
    fixed += setting.depth * head_nbytes(made.shape, cycle.context, columns)
    fixed_seconds = min(fixed / bench.bandwidth, cycle.seconds)
    whole_seconds = fixed_seconds + (cycle.seconds - fixed_seconds) * (whole - fixed) / (nbytes - fixed)
    bound = nbytes / bench.bandwidth
    return Outcome(tokens / cycle.seconds, tokens / bound, tokens / whole_seconds, bound / cycle.seconds, cycle)


def _judge(bench: Bench, outcomes: dict[Setting, Outcome]) -> None:
    """Targets, of the best way that was measured."""
    best_way = next((way for way in Way if any(setting.way is way for setting in outcomes)), None)
    for is_shared in (False, True):
        mine = {s: o for s, o in outcomes.items() if s.way is best_way and s.is_shared == is_shared}
        kind = "shared" if is_shared else "random"
        plain = next((outcome for setting, outcome in mine.items() if not setting.depth), None)
        if plain is not None and not is_shared:
            bench.report("M4", "plain", target="plain", value=plain.share)
        drafted = {setting: outcome for setting, outcome in mine.items() if setting.depth}
        if not drafted or plain is None:
            continue
        best = max(drafted, key=lambda setting: drafted[setting].rate)
        outcome = drafted[best]
        bench.report("M4", f"best, {kind}: {best.name}", target="cycle", value=outcome.share)
        bench.report("M4", f"÷ plain, {kind}", target=f"ratio {kind}", value=outcome.rate / plain.rate)
        bench.report("M4", f"÷ plain, {kind}, bound", target=f"ratio bound {kind}", value=outcome.bound / plain.bound)
        if is_shared:
            bench.report("M4", "tokens/s, all layers", target="speed shared", value=outcome.whole_rate)
        if outcome.cycle.unhidden_share is not None:
            bench.report("M4", f"host, {kind}", target="host", value=outcome.cycle.unhidden_share)


def _count_launches(bench: Bench, made: MadeModel, depth: int, outcome: Outcome | None) -> None:
    """And what each takes beyond its bytes, where the whole was measured."""
    prompt = _prompt(bench, made, 3)[:200]
    engine = made.engine(512, 8 if bench.is_toy else CHUNK, is_replayed=False)
    with running(engine, request(prompt, 40, depth, RATES, made.shape.vocab)):
        if not bench.is_toy:
            engine.step()
        count = made.num_launches(engine)
    facts = (
        {} if outcome is None else {"us_each_beyond_bytes": 1e6 * outcome.cycle.seconds * (1 - outcome.share) / count}
    )
    bench.report("M4", f"launches, {f'depth {depth}' if depth else 'plain'}", count=count, **facts)


def _list_kernels(bench: Bench, made: MadeModel) -> None:
    """Where the device's time goes in a plain step, as torch's profiler sees it."""
    engine = made.engine(PROMPT + 64, CHUNK, is_replayed=False)
    with running(engine, request(_prompt(bench, made, 4), 40, 0, RATES, made.shape.vocab)):
        for _ in range(3):
            engine.step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(PROFILED_STEPS):
                engine.step()
            torch.cuda.synchronize()
    spent = sorted(profile.key_averages(), key=lambda kernel: -kernel.self_device_time_total)
    for kernel in spent[:LISTED_KERNELS]:
        count, us = kernel.count / PROFILED_STEPS, kernel.self_device_time_total / PROFILED_STEPS
        bench.report("M4", f"kernel {kernel.key[:60]}", launches_a_step=count, us_a_step=us)


def _same_logits(bench: Bench, made: MadeModel) -> None:
    """Of one prompt, cut into chunks of several sizes: few rows, blocks of them, and few rows replayed."""
    ids = _prompt(bench, made, 5)[: LOGIT_CHUNKS[0]]
    first: np.ndarray | None = None
    for is_replayed in (False,) if bench.is_toy else (False, True):
        engine = made.engine(len(ids) + 64, LOGIT_CHUNKS[0], is_replayed)
        for chunk in (len(ids), 1) if bench.is_toy else LOGIT_CHUNKS:
            name = f"logits, {chunk} rows a pass, {'replayed' if is_replayed else 'eager'}"
            if (is_replayed and chunk > MAX_REPLAYED) or not bench.has_time("M4", name):
                continue
            logits = np.concatenate([part.copy() for part in trunk_logits(engine.runner, ids, chunk)])
            first = logits if first is None else first
            rows = int((logits.view(np.uint32) != first.view(np.uint32)).any(axis=1).sum())
            bench.report("M4", name, differing_rows=rows, finite=bool(np.isfinite(logits).all()), target="bits",
                         value=float(rows))  # fmt: skip
        del engine
        bench.free_memory()


def _same_texts(bench: Bench, made: MadeModel) -> None:
    """At every depth, ahead of the host, by the host and launched one by one, the model writes one text; greedily, and
    with a seed."""
    prompt, vocab, depths = _prompt(bench, made, 2)[:300], made.shape.vocab, range(len(RATES) + 1)
    texts: dict[str, list[int]] = {}
    engine = made.engine(len(prompt) + TEXT + 16, CHUNK, is_replayed=True)
    for temperature in (0.0, 0.8):
        kind, num_ahead = f"temperature {temperature:g}", 0
        for depth in depths:
            name = f"{kind}, depth {depth}"
            texts[f"{name}, cycles"], ahead = text(engine, prompt, TEXT, depth, vocab, temperature)
            num_ahead += ahead
            with by_host(engine):
                texts[f"{name}, replayed"], _ = text(engine, prompt, TEXT, depth, vocab, temperature)
        first = texts[f"{kind}, depth 0, replayed"]
        others = [name for name, ids in texts.items() if name.startswith(kind) and ids != first]
        bench.report("M4", f"texts that differ, {kind}", names=", ".join(others) or "none", ran_ahead=num_ahead,
                     target="bits", value=float(len(others)))  # fmt: skip
    del engine
    bench.free_memory()
    engine = made.engine(len(prompt) + TEXT + 16, CHUNK, is_replayed=False)
    eager = [text(engine, prompt, SHORT_TEXT, depth, vocab)[0] for depth in (0, len(RATES))]
    same = sum(ids == texts["temperature 0, depth 0, cycles"][:SHORT_TEXT] for ids in eager)
    bench.report("M4", "texts that differ, eager", target="bits", value=float(len(eager) - same))
