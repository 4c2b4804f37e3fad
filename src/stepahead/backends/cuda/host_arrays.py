"""Host arrays that ops take, as tensors on the device: each is sent once a pass, or stands for a tensor there already.

Ops are called with numpy arrays: ids, positions, tables. A replayed pass must read them from addresses that stay, so
that whoever records one binds its arrays to tensors of its own, and fills those before each replay.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.generic]


class HostArrays:
    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sent: dict[int, tuple[Array, torch.Tensor]] = {}  # by id; the array is kept, so that its id is its own
        self._bound: dict[int, tuple[Array, torch.Tensor]] = {}
        self._kept: dict[int, tuple[Array, torch.Tensor]] = {}
        self._is_sealed = False

    def __call__(self, array: npt.NDArray[Any]) -> torch.Tensor:
        """The tensor for `array`, same shape and dtype; the array must not change until the next pass."""
        number = id(array)
        known = self._kept.get(number) or self._bound.get(number) or self._sent.get(number)
        if known is None:
            assert not self._is_sealed, "a recorded pass would read this array as it is now, for ever: bind it"
            tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self._device, non_blocking=True)
            self._sent[number] = known = (array, tensor)
        return known[1]

    def bind(self, array: npt.NDArray[Any], tensor: torch.Tensor) -> None:
        """From now on `array` means `tensor`, whatever it holds, until `unbind`."""
        assert tuple(tensor.shape) == array.shape
        self._bound[id(array)] = (array, tensor)

    def keep(self, array: npt.NDArray[Any], tensor: torch.Tensor) -> None:
        """As `bind`, and for good: whoever changes the array sends it there himself."""
        assert tuple(tensor.shape) == array.shape
        self._kept[id(array)] = (array, tensor)

    def unbind(self) -> None:
        self._bound.clear()

    @contextmanager
    def sealed(self) -> Iterator[None]:
        """Within it only bound arrays are taken; at its end they are unbound."""
        self._is_sealed = True
        try:
            yield
        finally:
            self._is_sealed = False
            self.unbind()

    def begin_step(self) -> None:
        self._sent.clear()
