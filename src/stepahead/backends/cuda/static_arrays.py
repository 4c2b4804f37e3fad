"""Arrays on the device at addresses that stay, filled from the host by one copy: what replayed passes read.

The host writes into pinned memory, and goes on while the device copies; a ring of such buffers keeps the next one from
being written before it has been read.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stepahead.backends.cuda.device import Device
from stepahead.backends.cuda.host_arrays import HostArrays

Field = tuple[str, tuple[int, ...]]
"""dtype, as numpy writes it, and shape."""

NUM_BUFFERS = 4
ALIGNMENT = 16
DTYPES = {"int64": torch.int64, "float64": torch.float64, "int32": torch.int32, "int8": torch.int8}


class StaticArrays:
    """tensors: on the device. stand_ins: arrays of zeros, of the same shapes, for ops that are given arrays."""

    def __init__(self, device: Device, fields: Mapping[str, Field]) -> None:
        self._device = device
        places, size = _places(fields)
        memory = torch.zeros(size, dtype=torch.uint8, device=device.torch)
        self._memory = memory
        self.tensors = {name: _tensor(memory, start, fields[name]) for name, start in places.items()}
        self.stand_ins: dict[str, npt.NDArray[Any]] = {
            name: np.zeros(shape, dtype) for name, (dtype, shape) in fields.items()
        }
        count = 1 if device.is_interpreted else NUM_BUFFERS
        self._buffers = [
            torch.zeros(size, dtype=torch.uint8, pin_memory=not device.is_interpreted) for _ in range(count)
        ]
        self._views = [
            {name: _view(buffer.numpy(), start, fields[name]) for name, start in places.items()}
            for buffer in self._buffers
        ]
        self._copied: list[torch.cuda.Event | None] = [None] * count
        self._number = 0

    def begin(self) -> dict[str, npt.NDArray[Any]]:
        """Arrays to be filled with what the tensors are to hold, all of it; then comes `send`."""
        self._number = (self._number + 1) % len(self._buffers)
        copied = self._copied[self._number]
        if copied is not None:
            copied.synchronize()
        return self._views[self._number]

    def send(self) -> None:
        """What is launched from now on finds it on the device."""
        self._memory.copy_(self._buffers[self._number], non_blocking=True)
        if not self._device.is_interpreted:
            self._copied[self._number] = torch.cuda.current_stream(self._device.torch).record_event()

    def bind(self, arrays: HostArrays) -> None:
        """Ops that are given the stand-ins read the tensors."""
        for name, array in self.stand_ins.items():
            arrays.bind(array, self.tensors[name])


def _places(fields: Mapping[str, Field]) -> tuple[dict[str, int], int]:
    """Where each begins, in bytes, and how many there are in all."""
    places, size = {}, 0
    for name, (dtype, shape) in fields.items():
        places[name] = size
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        size += -(-nbytes // ALIGNMENT) * ALIGNMENT
    return places, size


def _tensor(memory: torch.Tensor, start: int, field: Field) -> torch.Tensor:
    dtype, shape = DTYPES[field[0]], field[1]
    nbytes = int(np.prod(shape)) * dtype.itemsize
    return memory[start : start + nbytes].view(dtype).view(shape)


def _view(memory: npt.NDArray[np.uint8], start: int, field: Field) -> npt.NDArray[Any]:
    dtype, shape = np.dtype(field[0]), field[1]
    return memory[start : start + int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape)
