"""Numbers that a pass leaves behind and that are seldom asked for: waiting for them is left to whoever asks."""

from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt


class RunningSums(Sequence[int]):
    """Entry j is the sum of the first j + 1 numbers that `fetch` gives, which is asked once, and only if need be."""

    def __init__(self, fetch: Callable[[], npt.NDArray[Any]], length: int) -> None:
        self._fetch = fetch
        self._length = length
        self._sums: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...
    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        if self._sums is None:
            self._sums = tuple(np.cumsum(self._fetch()).tolist())
        return self._sums[index]
