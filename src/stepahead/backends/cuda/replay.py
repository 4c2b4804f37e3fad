"""What a pass launches, kept to be run again on what its inputs hold then: as CUDA graphs on a GPU, as a list of
launches in the interpreter. What the host has to do in between (`Launcher.host_call`) is kept at its place.

Whoever records owns the inputs: tensors that stay where they are. What a recorded function allocates is allocated
once; a replay writes the same memory again, its results included. So between launches there may be nothing but views:
no arithmetic of torch's, no copies, no numbers that the host decides by.
"""

import gc
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

import torch

from stepahead.backends.cuda.device import Device
from stepahead.backends.cuda.launch import HostCall, Launcher, Recording

Result = TypeVar("Result")

WARM_UPS = 2
"""Runs before a graph is captured: the first compiles kernels and loads them, which a capture must not."""

_CAPTURING = threading.Lock()
"""Of the process. While a stream is captured nobody may wait for its device as a whole, nor capture another one: torch
has one generator of random numbers a device, which takes part."""


class Replay(Protocol):
    """Runs what was recorded, on the current stream."""

    def replay(self) -> None: ...


class Recorder(Protocol):
    def record(self, function: Callable[[], Result], family: Hashable) -> tuple[Replay, Result]:
        """What `function` launches, and its result, which later replays write anew. It has run when this returns.

        It may be called more than once, and must do the same each time. family: those that share memory; a result
        lasts until any of its family is replayed.
        """
        ...


class LaunchRecorder:
    """Where there is no GPU. The recording keeps every tensor of the pass."""

    def __init__(self, launch: Launcher) -> None:
        self._launch = launch

    def record(self, function: Callable[[], Result], family: Hashable) -> tuple[Recording, Result]:
        with self._launch.record() as recording:
            result = function()
        return recording, result


class GraphRecorder:
    """Captures on a stream of its own, a family of graphs from one pool of memory, and each pool on the same stream.

    What a graph needs on its way is used again by those captured after it, for their results too: so a replay may
    write over the results of others that were captured from the same pool. Compiled kernels are kept by their
    functions, which are never let go.
    """

    def __init__(self, device: Device, launch: Launcher) -> None:
        self._device = device.torch
        self._launch = launch
        self._stream = torch.cuda.Stream(device.torch)
        self._pools: dict[Hashable, Any] = {}
        self._alive: dict[Hashable, WeakSet[Segments]] = {}

    def record(self, function: Callable[[], Result], family: Hashable) -> tuple[Replay, Result]:
        computing = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(computing)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                function()
        segments = Segments(self._launch, self._pool(family))
        with _CAPTURING:
            # As `torch.cuda.graph` begins: memory that torch keeps for itself and nobody uses is let go, for the pool.
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
            with _without_garbage_collection(), torch.cuda.stream(self._stream), segments.captured():
                result = function()
        self._alive[family].add(segments)
        computing.wait_stream(self._stream)
        segments.replay()
        return segments, result

    def _pool(self, family: Hashable) -> Any:
        """That of the family's graphs, and a new one where none of them is left: torch captures into no pool that all
        graphs have gone from, be it with their keys and values, or because the first capture has failed."""
        alive = self._alive.setdefault(family, WeakSet())
        if not alive:
            self._pools[family] = torch.cuda.graph_pool_handle()
        return self._pools[family]


class Segments:
    """Graphs of one pass, and between them what the host does: a graph cannot wait for it.

    All are captured from one pool on one stream, and replayed in the order of their capture. So a tensor of one graph
    may be read by a later one: its memory is not given to anything else while Python refers to it, which is at least
    until the last launch that reads it was captured; and whatever gets that memory then comes later in the replay, too.
    What the host reads or writes between graphs, it refers to for as long as the segments live, so that nothing else
    ever has that memory.
    """

    def __init__(self, launch: Launcher, pool: Any) -> None:
        self._launch = launch
        self._pool = pool
        self._steps: list[HostCall] = []
        self._graph: torch.cuda.CUDAGraph | None = None  # that is being captured
        self._num_before = 0  # launches

    def replay(self) -> None:
        for step in self._steps:
            step()

    @contextmanager
    def captured(self) -> Iterator[None]:
        """What is launched within it on the current stream."""
        self._begin()
        try:
            with self._launch.postponing(self._cut):
                yield
        finally:
            self._end()

    def _cut(self, call: HostCall) -> None:
        if self._launch.num_launches == self._num_before:
            self._steps.append(call)  # before a graph that has nothing yet: none is left empty
            return
        self._end()
        self._steps.append(call)
        self._begin()

    def _begin(self) -> None:
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile: what they do is none of the capture's business.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        self._graph, self._num_before = graph, self._launch.num_launches

    def _end(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:  # else it has failed to begin or to end
            graph.capture_end()
            self._steps.append(graph.replay)


def new_recorder(device: Device, launch: Launcher) -> Recorder:
    return LaunchRecorder(launch) if device.is_interpreted else GraphRecorder(device, launch)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """What is collected may hold modules and memory of the device, and letting go of those ends a capture."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
