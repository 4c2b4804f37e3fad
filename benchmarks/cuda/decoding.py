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
from stepahead.engine.engine import Engine
from stepahead.engine.params import SamplingParams, Speculation
from stepahead.engine.replay import Replay
from stepahead.engine.request import Request, Sequence

COUNTED_STEPS = 6
"""Whose experts are counted, behind those that are timed: fetching the count takes time."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """seconds: of the median step. experts: distinct ones a layer of the trunk. device_seconds: of its graphs, one
    after the other; None: it was not replayed. warming_up: of the prompt and the first steps, compilation included."""

    seconds: float
    experts: float
    context: int
    device_seconds: float | None
    warming_up: float

    @property
    def hidden_share(self) -> float | None:
        """Of the cycle, what the device spends on other things than its graphs: waiting for the host, mostly."""
        return None if self.device_seconds is None else max(0.0, 1 - self.device_seconds / self.seconds)


def request(prompt_ids: list[int], num_tokens: int, depth: int, rates: tuple[float, ...] | None, vocab: int) -> Request:
    """rates None: the text is the model's own, and drafts are the heads'."""
    recorded = tuple(np.random.default_rng(7).integers(0, vocab, num_tokens).tolist())
    replay = None if rates is None else Replay(recorded, len(prompt_ids), rates[:depth] or (1.0,), seed=3)
    return Request(
        request_id=0,
        prompt_ids=tuple(prompt_ids),
        params=SamplingParams(),
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


def measured(engine: Engine, asked: Request, warm_steps: int, steps: int, num_expert_layers: int) -> Cycle:
    started = time.perf_counter()
    with running(engine, asked) as sequence:
        for _ in range(warm_steps):
            engine.step()
        warming_up = time.perf_counter() - started
        times = []
        for _ in range(steps):
            before = time.perf_counter()
            engine.step()
            times.append(time.perf_counter() - before)
        counts = [_experts(engine)]
        graphs: list[torch.cuda.CUDAGraph] = []
        for _ in range(COUNTED_STEPS if warm_steps else 0):
            with collected_graphs() as collected:
                engine.step()
            graphs = collected
            counts.append(_experts(engine))
        device = replay_seconds(graphs) if graphs else None
        experts = statistics.mean(counts) / num_expert_layers
        return Cycle(statistics.median(times), experts, len(sequence.token_ids), device, warming_up)


def _experts(engine: Engine) -> int:
    """Distinct ones that the last step's pass of the trunk read, in all layers."""
    growth = engine.runner.expert_growth
    return growth[-1] if len(growth) else 0


def text(engine: Engine, prompt_ids: list[int], num_tokens: int, depth: int, vocab: int) -> list[int]:
    """What the model itself writes, greedily."""
    asked = request(prompt_ids, num_tokens, depth, None, vocab)
    sequence = engine.add(asked)
    while engine.has_unfinished:
        engine.step()
    return list(sequence.token_ids[len(prompt_ids) :])


@contextlib.contextmanager
def collected_graphs() -> Iterator[list[torch.cuda.CUDAGraph]]:
    """Those that are replayed within, in their order."""
    graphs: list[torch.cuda.CUDAGraph] = []
    replay = torch.cuda.CUDAGraph.replay

    def noted(graph: torch.cuda.CUDAGraph) -> None:
        graphs.append(graph)
        replay(graph)

    torch.cuda.CUDAGraph.replay = noted  # type: ignore[method-assign]
    try:
        yield graphs
    finally:
        torch.cuda.CUDAGraph.replay = replay  # type: ignore[method-assign]
