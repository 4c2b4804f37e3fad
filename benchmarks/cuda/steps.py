"""M4: decoding with Step's layers and random weights, plain and with three heads, beside the bytes that are read."""

import importlib.util
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.cuda.bench import Bench
from benchmarks.cuda.byte_bounds import SLIM_COLUMNS, cycle_nbytes, head_nbytes, matrix_nbytes, tokens_per_cycle
from benchmarks.cuda.decoding import Cycle, measured, request, running, text
from benchmarks.cuda.made_model import MadeModel, made_model
from stepahead.engine.teacher import trunk_logits

RATES = (0.80, 0.60, 0.45)
"""Share of drafts whose first 1, 2, 3 tokens are right."""
PROMPT, WARM_STEPS, STEPS, TEXT = 3800, 24, 48, 24  # within 64 blocks of keys, for which passes are recorded
CHUNK = 2048
LOGIT_CHUNKS, MAX_REPLAYED = (96, 33, 16, 4, 3, 1), 16
PROFILED_STEPS, LISTED_KERNELS = 4, 24
REPLAY = "stepahead.backends.cuda.replayed_model"


@dataclass(frozen=True, slots=True)
class Setting:
    is_replayed: bool
    is_shared: bool = False
    depth: int = 0
    is_slim: bool = False

    @property
    def name(self) -> str:
        drafts = f"depth {self.depth}{', slim heads' if self.is_slim else ''}" if self.depth else "plain"
        experts = "a third shared" if self.is_shared else "random experts"
        return f"{drafts}, {experts}, {'replayed' if self.is_replayed else 'eager'}"


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
    is_replayed = importlib.util.find_spec(REPLAY) is not None
    layers = f"{made.shape.num_trunk} of {made.whole.num_trunk} layers"
    mode = "replayed, then eager" if is_replayed else "eager only"
    bench.report("M4", "model", layers=layers, gb=made.nbytes / 1e9, passes=mode)
    made.share_experts(False)
    _same_logits(bench, made, is_replayed)
    if not bench.is_toy:
        _same_texts(bench, made, is_replayed)
    outcomes: dict[Setting, Outcome] = {}
    for setting in _settings(bench, is_replayed):
        if bench.has_time("M4", setting.name):
            outcomes[setting] = _outcome(bench, made, setting)
    _judge(bench, outcomes, is_replayed)
    made.share_experts(False)
    made.slim_heads(False)
    for depth in (0,) if bench.is_toy else (0, len(RATES)):
        if bench.has_time("M4", "launches"):
            _count_launches(bench, made, depth, outcomes.get(Setting(is_replayed, depth=depth)))
    if not bench.is_toy and bench.has_time("M4", "kernels"):
        try:
            _list_kernels(bench, made)
        except Exception as error:  # there may be no profiler, and nothing else hangs on it
            bench.report("M4", "kernels", skipped=f"{type(error).__name__}: {error}".splitlines()[0][:200])


def _settings(bench: Bench, is_replayed: bool) -> list[Setting]:
    """What targets ask for comes first."""
    if bench.is_toy:
        return [Setting(is_replayed, True, 2)]
    depths = range(len(RATES) + 1)
    found = [Setting(is_replayed, is_shared, depth) for is_shared in (False, True) for depth in depths]
    found += [Setting(is_replayed, is_shared, len(RATES), is_slim=True) for is_shared in (False, True)]
    return [*found, Setting(False), Setting(False, False, len(RATES))] if is_replayed else found


def _prompt(bench: Bench, made: MadeModel, seed: int) -> list[int]:
    ids = np.random.default_rng(seed).integers(0, made.shape.vocab, 2 if bench.is_toy else PROMPT)
    return [int(number) for number in ids]


def _outcome(bench: Bench, made: MadeModel, setting: Setting) -> Outcome:
    made.share_experts(setting.is_shared)
    made.slim_heads(setting.is_slim)
    warm, steps = (0, 1) if bench.is_toy else (WARM_STEPS, STEPS)
    num_tokens = (warm + steps + 12) * (setting.depth + 1) + 8
    prompt = _prompt(bench, made, 1)
    engine = made.engine(len(prompt) + num_tokens + 16, 8 if bench.is_toy else CHUNK, setting.is_replayed)
    asked = request(prompt, num_tokens, setting.depth, RATES, made.shape.vocab)
    cycle = measured(engine, asked, warm, steps, made.num_expert_layers)
    del engine
    bench.free_memory()
    outcome = _judged(bench, made, setting, cycle)
    facts = {} if cycle.hidden_share is None else {"host_share": cycle.hidden_share}
    bench.report(
        "M4", setting.name, ms=1e3 * cycle.seconds, experts_a_layer=cycle.experts, tokens_s=outcome.rate,
        bound_tokens_s=outcome.bound, share_of_bound=outcome.share, all_layers_tokens_s=outcome.whole_rate,
        warming_up_s=cycle.warming_up, **facts,
    )  # fmt: skip
    return outcome


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


def _judge(bench: Bench, outcomes: dict[Setting, Outcome], is_replayed: bool) -> None:
    """Targets, of replayed passes where there are such."""
    for is_shared in (False, True):
        mine = {s: o for s, o in outcomes.items() if s.is_replayed == is_replayed and s.is_shared == is_shared}
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
        if outcome.cycle.hidden_share is not None:
            bench.report("M4", f"host, {kind}", target="host", value=outcome.cycle.hidden_share)


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


def _same_logits(bench: Bench, made: MadeModel, is_replayed: bool) -> None:
    """Of one prompt, cut into chunks of several sizes: few rows, blocks of them, and few rows replayed."""
    ids = _prompt(bench, made, 5)[: LOGIT_CHUNKS[0]]
    first: np.ndarray | None = None
    for chunk in (len(ids), 1) if bench.is_toy else LOGIT_CHUNKS:
        for replayed in (False, True) if is_replayed and chunk <= MAX_REPLAYED and not bench.is_toy else (False,):
            name = f"logits, {chunk} rows a pass, {'replayed' if replayed else 'eager'}"
            if not bench.has_time("M4", name):
                return
            engine = made.engine(len(ids) + 64, max(chunk, 8), replayed)
            logits = np.concatenate([part.copy() for part in trunk_logits(engine.runner, ids, chunk)])
            first = logits if first is None else first
            rows = int((logits.view(np.uint32) != first.view(np.uint32)).any(axis=1).sum())
            bench.report("M4", name, differing_rows=rows, finite=bool(np.isfinite(logits).all()), target="bits",
                         value=float(rows))  # fmt: skip


def _same_texts(bench: Bench, made: MadeModel, is_replayed: bool) -> None:
    """With drafts and without, replayed and not, the model writes one text."""
    prompt = _prompt(bench, made, 2)[:300]
    texts: dict[str, list[int]] = {}
    for replayed in (False, True) if is_replayed else (False,):
        for depth in (0, len(RATES)):
            engine = made.engine(len(prompt) + TEXT + 16, CHUNK, replayed)
            name = f"depth {depth}, {'replayed' if replayed else 'eager'}"
            texts[name] = text(engine, prompt, TEXT, depth, made.shape.vocab)
    first = next(iter(texts.values()))
    others = [name for name, ids in texts.items() if ids != first]
    bench.report("M4", "texts that differ from plain, eager", names=", ".join(others) or "none", target="bits",
                 value=float(len(others)))  # fmt: skip
