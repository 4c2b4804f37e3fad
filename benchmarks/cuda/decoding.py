"""Decoding with the engine, step by step: what a cycle takes, what the device does of it, how many experts it reads.

Drafts are forced: right as often as asked for, whatever the heads of a made model say.
"""

import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.cuda.timing import replay_seconds
from stepahead.backends.base import BLOCK_SIZE
from stepahead.backends.cuda.replay import Segments
from stepahead.engine.engine import Engine
from stepahead.engine.params import SamplingParams, Speculation
from stepahead.engine.replay import Replay
from stepahead.engine.request import Request, Sequence

NOTED_STEPS = 8
"""Whose graphs have their times noted as they run."""


@dataclass(frozen=True, slots=True)
class Steps:
    """How many, one after the other: timed ones; of which nothing but the experts is of interest. counted 0: there are
    no graphs to be noted either."""

    warm: int
    timed: int
    counted: int

    @property
    def total(self) -> int:
        """And some more, until there is room in a block."""
        return self.warm + self.timed + self.counted + 2 * NOTED_STEPS + 4


@dataclass(frozen=True, slots=True)
class Cycle:
    """seconds: of the median step. experts: distinct ones a layer of the trunk. warming_up: of the prompt and the first
    steps, compilation included. ahead: share of the steps that the device ran ahead of the host.

    host_seconds: what the host does in a step beside waiting. device_seconds: of the step's graphs, one right behind
    the other. between_seconds: from the end of each graph to the start of the next one, as they ran, all of a step.
    None: it was not replayed.
    """

    seconds: float
    experts: float
    context: int
    warming_up: float
    ahead: float = 0.0
    host_seconds: float = 0.0
    device_seconds: float | None = None
    between_seconds: float | None = None

    @property
    def unhidden_share(self) -> float | None:
        """Of a step, what is left when its graphs are taken away: the device waits for the host, mostly."""
        return None if self.device_seconds is None else max(0.0, 1 - self.device_seconds / self.seconds)


def request(
    prompt_ids: list[int],
    num_tokens: int,
    depth: int,
    rates: tuple[float, ...] | None,
    vocab: int,
    temperature: float = 0.0,
) -> Request:
    """rates None: the text is the model's own, and drafts are the heads'."""
    recorded = tuple(np.random.default_rng(7).integers(0, vocab, num_tokens).tolist())
    replay = None if rates is None else Replay(recorded, len(prompt_ids), rates[:depth] or (1.0,), seed=3)
    return Request(
        request_id=0,
        prompt_ids=tuple(prompt_ids),
        params=SamplingParams(temperature=temperature),
        speculation=Speculation("mtp", depth, adaptive=False) if depth else Speculation("off"),
        seed=0,
        max_new_tokens=num_tokens,
        end_ids=frozenset(),
        depth=depth,
        replay=replay,
    )


@contextlib.contextmanager
def running(engine: Engine, asked: Request) -> Iterator[Sequence]:
    """Its prompt is done within, and it is gone after."""
    sequence = engine.add(asked)
    try:
        while not sequence.is_decoding:
            engine.step()
        yield sequence
    finally:
        engine.abort(asked.request_id)
        while engine.has_unfinished:
            engine.step()


@contextlib.contextmanager
def by_host(engine: Engine) -> Iterator[None]:
    """Steps are the host's within; what the device was given ahead is forgotten."""
    cycles, engine.cycles = engine.cycles, None
    if cycles is not None:
        cycles.drop()
    try:
        yield
    finally:
        engine.cycles = cycles


def measured(engine: Engine, asked: Request, steps: Steps, num_expert_layers: int) -> Cycle:
    started = time.perf_counter()
    with running(engine, asked) as sequence:
        for _ in range(steps.warm):
            engine.step()
        warming_up = time.perf_counter() - started
        times, host_times, num_ahead = [], [], 0
        with noted_waits() as waits:
            for _ in range(steps.timed):
                waits.clear()
                before = time.perf_counter()
                num_ahead += is_ahead(engine)
                times.append(time.perf_counter() - before)
                host_times.append(times[-1] - sum(waits))
        device, between = _on_device(engine, sequence) if steps.counted else (None, None)
        counts = []
        with by_host(engine):  # cycles count no experts
            for _ in range(steps.counted):
                engine.step()
                counts.append(_experts(engine))
        return Cycle(
            seconds=statistics.median(times),
            experts=statistics.mean(counts or [_experts(engine)]) / num_expert_layers,
            context=len(sequence.token_ids),
            warming_up=warming_up,
            ahead=num_ahead / steps.timed,
            host_seconds=statistics.median(host_times),
            device_seconds=device,
            between_seconds=between,
        )


def is_ahead(engine: Engine) -> bool:
    """One step; whether the device ran it ahead of the host: then the host has verified nothing."""
    before = engine.metrics.seconds["verify"]
    engine.step()
    return engine.metrics.seconds["verify"] == before


def text(
    engine: Engine, prompt_ids: list[int], num_tokens: int, depth: int, vocab: int, temperature: float = 0.0
) -> tuple[list[int], int]:
    """What the model itself writes, and how many of the steps the device ran ahead."""
    sequence = engine.add(request(prompt_ids, num_tokens, depth, None, vocab, temperature))
    num_ahead = 0
    while engine.has_unfinished:
        num_ahead += is_ahead(engine)
    return list(sequence.token_ids[len(prompt_ids) :]), num_ahead


def _experts(engine: Engine) -> int:
    """Distinct ones that the host's last pass of the trunk read, in all layers."""
    growth = engine.runner.expert_growth
    return growth[-1] if len(growth) else 0


# --- the device's part ---
@dataclass(frozen=True, slots=True)
class Replayed:
    """A pass or a cycle, and events at its start and its end."""

    segments: Segments
    start: torch.cuda.Event
    end: torch.cuda.Event


def _on_device(engine: Engine, sequence: Sequence) -> tuple[float | None, float | None]:
    """device_seconds and between_seconds of Cycle. The cycles that are replayed for it go on with the text: the host
    has to take it from where it is now."""
    num_steps = last = 0
    with noted_replays() as replays:
        while num_steps < NOTED_STEPS or (num_steps < 2 * NOTED_STEPS and not _has_room(engine, sequence)):
            last = len(replays)
            engine.step()
            num_steps += 1
    if not replays or not _has_room(engine, sequence):
        return None, None
    torch.cuda.synchronize()
    span = replays[0].start.elapsed_time(replays[-1].end)
    between = span - sum(each.start.elapsed_time(each.end) for each in replays)
    of_step = len(replays) / num_steps / (len(replays) - 1)  # there is one less between them
    return replay_seconds([each.segments for each in replays[last:]]), 1e-3 * between * of_step


def _has_room(engine: Engine, sequence: Sequence) -> bool:
    """Two cycles more than are launched find the blocks that they write to: without, a sequence stands still."""
    if engine.cycles is None:
        return True
    last = (sequence.kv.num_claimed - 1) % BLOCK_SIZE
    return last + 2 * (sequence.request.depth + 1) < BLOCK_SIZE


@contextlib.contextmanager
def noted_replays() -> Iterator[list[Replayed]]:
    """What is replayed within, in its order."""
    found: list[Replayed] = []
    replay = Segments.replay

    def noted(segments: Segments) -> None:
        found.append(Replayed(segments, *(torch.cuda.Event(enable_timing=True) for _ in range(2))))
        found[-1].start.record()
        replay(segments)
        found[-1].end.record()

    Segments.replay = noted  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Segments.replay = replay  # type: ignore[method-assign]


@contextlib.contextmanager
def noted_waits() -> Iterator[list[float]]:
    """Seconds that the host waits for the device within: all that it wants to know it waits for by an event."""
    found: list[float] = []
    synchronize = torch.cuda.Event.synchronize

    def noted(event: torch.cuda.Event) -> None:
        before = time.perf_counter()
        synchronize(event)
        found.append(time.perf_counter() - before)

    torch.cuda.Event.synchronize = noted  # type: ignore[method-assign]
    try:
        yield found
    finally:
        torch.cuda.Event.synchronize = synchronize  # type: ignore[method-assign]
