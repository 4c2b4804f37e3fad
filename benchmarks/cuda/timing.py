"""How long kernels take on the device: calls captured as a graph, so that no launch of the host's is in between.

Cases that are compared take turns, round by round, and of each the median counts. In the interpreter each call runs
once, and its time means nothing.
"""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from stepahead.backends.cuda.replay import Replay

Call = Callable[[], object]

ROUNDS = 7
MIN_CALLS = 8
"""In a graph: what begins and ends it is not to count."""


class Timer:
    """preparing: seconds that the first calls took, compilation included."""

    def __init__(self, is_interpreted: bool) -> None:
        self.is_interpreted = is_interpreted
        self.preparing = 0.0
        self._stream: torch.cuda.Stream | None = None

    def seconds(self, cases: Mapping[str, Sequence[Call]], rounds: int = ROUNDS) -> dict[str, float]:
        """Of one call of each case; its calls differ in what they read, so that caches do not hold it."""
        if self.is_interpreted:
            return {name: _timed(calls[0]) for name, calls in cases.items()}
        graphs = {name: (self.captured(calls), _times(calls)) for name, calls in cases.items()}
        found: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(rounds):
            for name, (graph, times) in graphs.items():
                found[name].append(replay_seconds([graph]) / times)
        return {name: statistics.median(values) for name, values in found.items()}

    def captured(self, calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
        """All calls one after the other, several times if they are few."""
        self.prepare(calls)
        graph = torch.cuda.CUDAGraph()
        with _no_collection(), torch.cuda.graph(graph, stream=self._stream):
            for number in range(_times(calls)):
                calls[number % len(calls)]()
        return graph

    def prepare(self, calls: Sequence[Call]) -> None:
        """Run each once, on a stream of its own, as captures want it."""
        started = time.perf_counter()
        self._stream = self._stream or torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for call in calls:
                call()
        torch.cuda.synchronize()
        self.preparing += time.perf_counter() - started


def replay_seconds(graphs: Sequence[Replay]) -> float:
    """Of graphs one after the other. They run twice: while they do so the first time, the host gets ahead."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for graph in graphs:
        graph.replay()
    start.record()
    for graph in graphs:
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def eager_seconds(call: Call, rounds: int = 3) -> float:
    """With the host's launches, the median of rounds."""
    found = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        found.append(_timed(call, torch.cuda.synchronize))
    return statistics.median(found)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Letting go of a module or of memory ends a capture."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _times(calls: Sequence[Call]) -> int:
    return len(calls) * -(-MIN_CALLS // len(calls))


def _timed(call: Call, finish: Call | None = None) -> float:
    started = time.perf_counter()
    call()
    if finish is not None:
        finish()
    return time.perf_counter() - started
