"""The one way in which kernels are launched: no tuning by time, no fused multiply-add that is not written as one.

A recording keeps what was launched, in order, with the very tensors it was launched on, and what the host did in
between. Replayed, it computes anew from what these hold then: what CUDA graphs do on a GPU, and how such replays are
tested without one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from stepahead.backends.cuda.device import Device

MATRIX_SIZE = {"matrix_instr_nonkdim": 16}
"""On AMD: of the instruction that multiplies. Left to itself, Triton takes another one for larger tiles, and a row
among many might get other bits than among few."""

_OPTIONS = MATRIX_SIZE if torch.version.hip else {}

Grid = tuple[int, ...]
HostCall = Callable[[], None]


@dataclass(frozen=True, slots=True, eq=False)
class Launch:
    kernel: Any
    grid: Grid
    args: tuple[Any, ...]
    options: dict[str, Any]

    def __call__(self) -> None:
        self.kernel[self.grid](*self.args, **self.options)


@dataclass(slots=True, eq=False)
class Recording:
    launches: list[Launch | HostCall] = field(default_factory=list)

    def replay(self) -> None:
        for launch in self.launches:
            launch()


class Launcher:
    """Launches on the current stream of one device; one an instance of the backend."""

    def __init__(self, device: Device | None = None) -> None:
        """device: None: whichever is current."""
        self._device = device
        self.num_launches = 0  # so far
        self._recording: Recording | None = None
        self._postpone: Callable[[HostCall], None] | None = None

    def __call__(
        self, kernel: Any, grid: Grid, *args: Any, num_warps: int = 4, num_stages: int = 1, **constexprs: Any
    ) -> None:
        """Run `kernel` over `grid`; args: tensors and scalars in the kernel's order, constexprs by name.

        A grid without programs launches nothing. Scalars that change between passes belong into tensors: a replay
        has those of its recording.
        """
        if 0 in grid:
            return
        options = {
            "num_warps": num_warps,
            "num_stages": num_stages,
            "enable_fp_fusion": False,
            **_OPTIONS,
            **constexprs,
        }
        launch = Launch(kernel, grid, args, options)
        if self._recording is not None:
            self._recording.launches.append(launch)
        self.num_launches += 1
        if self._device is not None:
            self._device.make_current()  # Triton launches there, wherever the tensors are
        launch()

    def host_call(self, call: HostCall) -> None:
        """What the host does between launches, on the current stream; a replay does it there again.

        It runs now, unless what was launched before it is only captured. Nothing may depend on which of the two it is:
        what `call` writes lies where later launches find it.
        """
        if self._postpone is not None:
            self._postpone(call)
            return
        if self._recording is not None:
            self._recording.launches.append(call)
        call()

    @contextmanager
    def postponing(self, postpone: Callable[[HostCall], None]) -> Iterator[None]:
        """Within it calls of the host are given to `postpone`, and not run."""
        assert self._postpone is None, "captures do not nest"
        self._postpone = postpone
        try:
            yield
        finally:
            self._postpone = None

    @contextmanager
    def record(self) -> Iterator[Recording]:
        """What is launched within; it runs, too."""
        assert self._recording is None, "recordings do not nest"
        self._recording = recording = Recording()
        try:
            yield recording
        finally:
            self._recording = None
