"""A matrix that is loaded when somebody multiplies with it first.

Where loading is copying, one that may never be multiplied with takes no memory before. Must not know: which one that
is, or why.
"""

from collections.abc import Callable

from stepahead.backends.base import QuantMatrix
from stepahead.gguf.quants import QuantType


class LateMatrix:
    """A `QuantMatrix` in name alone: ops are given what `loaded` gives."""

    def __init__(self, load: Callable[[], QuantMatrix], type: QuantType, shape: tuple[int, ...], nbytes: int) -> None:
        """nbytes: what it takes once it is loaded."""
        self.type = type
        self.shape = shape
        self.nbytes = nbytes
        self._load = load
        self._matrix: QuantMatrix | None = None

    @property
    def is_loaded(self) -> bool:
        return self._matrix is not None

    def loaded(self) -> QuantMatrix:
        """Loading waits for the device, and so is nothing for a pass that is being recorded."""
        if self._matrix is None:
            self._matrix = self._load()
        return self._matrix


def loaded(matrix: QuantMatrix) -> QuantMatrix:
    return matrix.loaded() if isinstance(matrix, LateMatrix) else matrix
