"""One GPU: where its tensors lie, what it can do, what goes there and comes back, and what is said when it is full.

Owns the choice between a real one and Triton's interpreter.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from triton import knobs
from triton.runtime import driver

from stepahead.backends.base import OwnMemory
from stepahead.errors import BackendError, CapacityError

INTERPRETED = "cpu"


@dataclass(frozen=True, slots=True)
class Device:
    """isa: architecture, as compilers write it. arch: compute capability as Triton writes it, 90 for 9.0; num_sms:
    multiprocessors. Both 0 where interpreted, arch also on a GPU that is no NVIDIA."""

    torch: torch.device
    name: str
    isa: str
    arch: int
    num_sms: int
    nbytes: int  # of memory, in all

    @property
    def is_interpreted(self) -> bool:
        return self.torch.type == INTERPRETED

    @classmethod
    def open(cls, index: int = 0) -> "Device":
        """GPU number `index`; the interpreter, if TRITON_INTERPRET is set. Raises BackendError where there is none."""
        if knobs.runtime.interpret:
            return cls(torch.device(INTERPRETED), "Triton's interpreter", "interpreter", 0, 0, 0)
        if not torch.cuda.is_available():
            raise BackendError(
                "device='cuda': torch sees no GPU: check its build and the driver (nvidia-smi), or give device='cpu'"
            )
        count = torch.cuda.device_count()
        if not 0 <= index < count:
            raise BackendError(f"device='cuda:{index}': there are {count} GPUs; give cuda:0 to cuda:{count - 1}")
        facts = torch.cuda.get_device_properties(index)
        arch = 0 if torch.version.hip else 10 * facts.major + facts.minor
        isa = f"sm_{arch}" if arch else facts.gcnArchName.split(":")[0]
        place = torch.device("cuda", index)
        device = cls(place, facts.name, isa, arch, facts.multi_processor_count, facts.total_memory)
        device.make_current()
        device._demand_launches()
        return device

    def _demand_launches(self) -> None:
        try:
            driver.active.get_current_target()
        except Exception as error:  # of whatever kind: what it does first is to build what it launches with
            raise BackendError(
                f"device='cuda': Triton cannot launch kernels on {self.name}, for which it needs a C compiler and "
                f"Python's headers (gcc, python3-dev): {error}; install them, or give device='cpu'"
            ) from error

    def make_current(self) -> None:
        """Of this thread: kernels are launched on the current one."""
        if not self.is_interpreted:
            torch.cuda.set_device(self.torch)

    @property
    def own_memory(self) -> OwnMemory:
        free = None if self.is_interpreted else torch.cuda.mem_get_info(self.torch)[0]
        return OwnMemory(self.name, free)

    def sent(self, values: npt.NDArray[Any]) -> torch.Tensor:
        """A copy on the device."""
        if self.is_interpreted:
            return torch.tensor(values)
        host = torch.empty(values.shape, dtype=torch.from_numpy(np.empty(0, values.dtype)).dtype, pin_memory=True)
        host.numpy()[...] = values
        return host.to(self.torch, non_blocking=True)  # torch keeps the host's memory until it has been read

    def fetched(self, values: torch.Tensor) -> npt.NDArray[Any]:
        """On the host, when the device is done with it; of the interpreter, the memory itself."""
        return values.numpy() if self.is_interpreted else self.fetched_later(values)()

    def fetched_later(self, values: torch.Tensor) -> Callable[[], npt.NDArray[Any]]:
        """What `values` are when the device is here; whoever calls waits for that, and for nothing after it."""
        if self.is_interpreted:
            kept = values.numpy().copy()
            return lambda: kept
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        copied = torch.cuda.current_stream(self.torch).record_event()

        def wait() -> npt.NDArray[Any]:
            copied.synchronize()
            return host.numpy()

        return wait

    def full(self) -> CapacityError:
        """What is said when no more memory can be had."""
        free, total = torch.cuda.mem_get_info(self.torch)
        return CapacityError(
            f"{self.name}: its memory is full, {free / 1e9:.1f} of {total / 1e9:.1f} GB are free: give a shorter "
            "--context-length, --kv-type q8_0, a smaller --max-num-seqs or --cache-gb, or --device cpu"
        )


class HasDevice(Protocol):
    device: Device


Owner = TypeVar("Owner", bound=HasDevice)


def explains_memory(owner: type[Owner]) -> type[Owner]:
    """Of a class: within its public methods, the end of the device's memory is one CapacityError."""
    for name, method in list(vars(owner).items()):
        if inspect.isfunction(method) and not name.startswith("_"):
            setattr(owner, name, _explained(method))
    return owner


def _explained(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def explained(self: HasDevice, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except RuntimeError as error:  # torch's own, or the driver's, who has none for a kernel or a graph
            if isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error):
                raise self.device.full() from None
            raise

    return explained
