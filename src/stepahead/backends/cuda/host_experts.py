"""Routed experts that stay in the host's memory: the CPU computes them while the GPU goes on with what needs no result.

Rows and routing go to pinned memory; a worker thread waits for them there and computes, by the numbers of
docs/numerics.md. What it gives is sent to the device when an op first reads it: until then the GPU has the shared
expert to do. Such a pass cannot be captured. Must not know: models, which layers these are.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from stepahead.backends.base import Bytes, Floats
from stepahead.backends.cuda.checks import demand
from stepahead.backends.cuda.device import Device
from stepahead.backends.cuda.routing import Routing
from stepahead.backends.cuda.rows import Rows
from stepahead.gguf.quants import QuantType

if TYPE_CHECKING:
    from stepahead.backends.cpu.matrix import Matrix
    from stepahead.backends.cpu.ops import CpuBackend

Fetch = Callable[[], npt.NDArray[Any]]
"""Waits for the device, and gives what it has sent."""


class PendingRows(Rows):
    """Rows that the worker has not finished, perhaps: whoever first asks for the values waits, and sends them to the
    device. What the worker raised is raised there."""

    __slots__ = ("_device", "_job", "_sent", "_shape")

    def __init__(self, job: "Future[Floats]", shape: tuple[int, int], device: Device) -> None:
        self.half = None
        self._job = job
        self._shape = shape
        self._device = device
        self._sent: torch.Tensor | None = None

    @property
    def values(self) -> torch.Tensor:
        if self._sent is None:
            self._sent = self._device.sent(self._job.result())
        return self._sent

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape


class HostExperts:
    """One piece of work at a time, in the order of the calls."""

    def __init__(self, device: Device, threads: int) -> None:
        """threads: of the CPU, that compute. They are there from the first matrix on."""
        self._device = device
        self._threads = threads
        self._cpu: CpuBackend | None = None
        self._worker: ThreadPoolExecutor | None = None

    @property
    def are_used(self) -> bool:
        return self._cpu is not None

    def load_matrix(self, data: Bytes, type: QuantType, shape: tuple[int, ...], layout: str) -> "Matrix":
        """Weights of experts, in a layout of the CPU's; `data` stays mapped."""
        demand(len(shape) == 3, f"weights of shape {shape} are no experts: those alone can stay in the host's memory")
        if self._cpu is None:
            from stepahead.backends.cpu.ops import CpuBackend  # noqa: PLC0415 (most models need none)

            self._cpu = CpuBackend(self._threads)
            self._worker = ThreadPoolExecutor(1, "stepahead-experts")
        return self._cpu.load_matrix(data, type, shape, layout)

    def moe_ffn(
        self, x: Rows, routing: Routing, gate: "Matrix", up: "Matrix", down: "Matrix", limit: float
    ) -> PendingRows:
        """The op, begun."""
        assert self._worker is not None
        assert self._device.is_interpreted or not torch.cuda.is_current_stream_capturing(), "a replay has no worker"
        count = routing.num_rows
        sources = x.values, routing.ids[:count], routing.weights[:count]
        fetches = [self._device.fetched_later(each) for each in sources]
        job = self._worker.submit(self._compute, fetches, routing.top_k, (gate, up, down), limit)
        return PendingRows(job, (x.shape[0], down.shape[1]), self._device)

    def _compute(
        self, fetches: list[Fetch], top_k: int, matrices: "tuple[Matrix, Matrix, Matrix]", limit: float
    ) -> Floats:
        """On the worker's thread."""
        from stepahead import _native  # noqa: PLC0415

        assert self._cpu is not None
        x, ids, weights = (fetch() for fetch in fetches)
        ids, weights = (np.ascontiguousarray(each[:, :top_k]) for each in (ids, weights))
        cpu = self._cpu
        cpu.begin_step()
        routing = _native.Routing(ids, weights, matrices[0].shape[0])
        return cpu.download(cpu.moe_ffn(cpu.upload(x), routing, *matrices, limit))
