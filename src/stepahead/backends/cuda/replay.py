"""What a pass launches, kept to be run again on what its inputs hold then: as a CUDA graph on a GPU, as a list of
launches in the interpreter.

Whoever records owns the inputs: tensors that stay where they are. What a recorded function allocates is allocated
once; a replay writes the same memory again, its results included. So between launches there may be nothing but views:
no arithmetic of torch's, no copies, no numbers that the host decides by.
"""

import gc
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch

from stepahead.backends.cuda.device import Device
from stepahead.backends.cuda.launch import Launcher, Recording

Result = TypeVar("Result")

WARM_UPS = 2
"""Runs before a graph is captured: the first compiles kernels and loads them, which a capture must not."""


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

    def __init__(self, device: Device) -> None:
        self._device = device.torch
        self._stream = torch.cuda.Stream(device.torch)
        self._pools: dict[Hashable, Any] = {}

    def record(self, function: Callable[[], Result], family: Hashable) -> tuple[torch.cuda.CUDAGraph, Result]:
        if family not in self._pools:
            self._pools[family] = torch.cuda.graph_pool_handle()
        computing = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(computing)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                function()
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile: what they do is none of the capture's business.
        with (
            _without_garbage_collection(),
            torch.cuda.graph(graph, pool=self._pools[family], stream=self._stream, capture_error_mode="thread_local"),
        ):
            result = function()
        computing.wait_stream(self._stream)
        graph.replay()
        return graph, result


def new_recorder(device: Device, launch: Launcher) -> Recorder:
    return LaunchRecorder(launch) if device.is_interpreted else GraphRecorder(device)


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
