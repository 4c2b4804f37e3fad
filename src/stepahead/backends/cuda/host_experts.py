"""Routed experts that stay in the host's memory: the CPU computes them while the GPU goes on with what needs no result.

Rows and routing go to pinned memory; a worker thread waits for them there and computes, by the numbers of
docs/numerics.md. What it gives is sent to the device when an op first reads it: until then the GPU has the shared
expert to do. In a pass that is recorded both are calls of the host between launches. Must not know: models, which
layers these are.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from stepahead.backends.base import Bytes, Floats, Ints
from stepahead.backends.cuda.checks import demand
from stepahead.backends.cuda.device import Device
from stepahead.backends.cuda.hand_over import Compute, HandOver, Mailbox
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.routing import Routing
from stepahead.backends.cuda.rows import Rows
from stepahead.gguf.quants import QuantType

if TYPE_CHECKING:
    from stepahead.backends.cpu.matrix import Matrix
    from stepahead.backends.cpu.ops import CpuBackend

Fetch = Callable[[], npt.NDArray[Any]]
"""Waits for the device, and gives what it has sent."""

Matrices = tuple["Matrix", "Matrix", "Matrix"]
"""gate, up and down."""


class PendingRows(Rows):
    """Rows that the worker has not finished, perhaps: whoever first asks for the values waits, and sends them to the
    device. What the worker raised is raised there."""

    __slots__ = ("_get", "_sent", "_shape")

    def __init__(self, get: Callable[[], torch.Tensor], shape: tuple[int, int]) -> None:
        self.half = None
        self._get = get
        self._shape = shape
        self._sent: torch.Tensor | None = None

    @property
    def values(self) -> torch.Tensor:
        if self._sent is None:
            self._sent = self._get()
        return self._sent

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape


class HostExperts:
    """One piece of work at a time, in the order of the calls."""

    def __init__(self, device: Device, launch: Launcher, threads: int) -> None:
        """threads: of the CPU, that compute. They are there from the first matrix on."""
        self._device = device
        self._launch = launch
        self._threads = threads
        self._cpu: CpuBackend | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._mailboxes: dict[tuple[int, ...], Mailbox] = {}  # by shapes
        self._num_real: int | None = None  # rows of the replayed pass that is under way

    @property
    def are_used(self) -> bool:
        return self._cpu is not None

    def load_matrix(self, data: Bytes, type: QuantType, shape: tuple[int, ...], layout: str) -> "Matrix":
        """Weights of experts, in a layout of the CPU's; `data` stays mapped."""
        demand(len(shape) == 3, f"weights of shape {shape} are no experts: those alone can stay in the host's memory")
        if self._cpu is None:
            from stepahead.backends.cpu.ops import CpuBackend  # noqa: PLC0415 (most models need none)

            self._cpu = CpuBackend(self._threads)
            self._worker = ThreadPoolExecutor(1, "stepahead-experts", self._device.make_current)  # it waits for events
        return self._cpu.load_matrix(data, type, shape, layout)

    @contextmanager
    def replaying(self, num_real: int) -> Iterator[None]:
        """Within it a pass is recorded or replayed, whose first `num_real` rows are somebody's: those are computed."""
        self._num_real = num_real
        try:
            yield
        finally:
            self._num_real = None

    def moe_ffn(
        self, x: Rows, routing: Routing, gate: "Matrix", up: "Matrix", down: "Matrix", limit: float
    ) -> PendingRows:
        """The op, begun."""
        assert self._worker is not None
        compute = partial(self._compute, (gate, up, down), limit, routing.top_k)
        shape = x.shape[0], down.shape[1]
        if self._num_real is not None:
            return PendingRows(self._recorded(x, routing, compute, down.shape[1]), shape)
        assert self._device.is_interpreted or not torch.cuda.is_current_stream_capturing(), "capture within `replaying`"
        count = routing.num_rows
        sources = x.values, routing.ids[:count], routing.weights[:count]
        fetches: list[Fetch] = [self._device.fetched_later(each) for each in sources]
        job = self._worker.submit(lambda: compute(*(fetch() for fetch in fetches)))
        return PendingRows(lambda: self._device.sent(job.result()), shape)

    def _recorded(self, x: Rows, routing: Routing, compute: Compute, width: int) -> Callable[[], torch.Tensor]:
        assert self._worker is not None
        shape = *x.shape, routing.padded_top_k, width
        if shape not in self._mailboxes:  # when a pass is warmed up: nothing may take pinned memory in a capture
            self._mailboxes[shape] = Mailbox(self._device, *shape)
        hand_over = HandOver(
            self._device, self._mailboxes[shape], x.values, routing, compute, self._worker, self._count_real
        )
        self._launch.host_call(hand_over.begin)

        def finished() -> torch.Tensor:
            self._launch.host_call(hand_over.finish)
            return hand_over.result

        return finished

    def _count_real(self) -> int:
        assert self._num_real is not None
        return self._num_real

    def _compute(self, matrices: Matrices, limit: float, top_k: int, x: Floats, ids: Ints, weights: Floats) -> Floats:
        """On the worker's thread."""
        from stepahead import _native  # noqa: PLC0415

        assert self._cpu is not None
        cpu = self._cpu
        cpu.begin_step()
        chosen, shares = np.ascontiguousarray(ids[:, :top_k]), np.ascontiguousarray(weights[:, :top_k])
        routing = _native.Routing(chosen, shares, matrices[0].shape[0])
        return cpu.download(cpu.moe_ffn(cpu.upload(x), routing, *matrices, limit))
