"""What a shortlist has of one output matrix."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stepahead.backends.base import QuantMatrix
from stepahead.gguf.quants import QuantType


@dataclass(frozen=True, slots=True, eq=False)
class ShortOutput:
    """An output matrix cut to the frequent ids, and all of its rows as the file has them, one after the other."""

    frequent: QuantMatrix  # (frequent ids, hidden)
    rows: npt.NDArray[np.uint8]  # (vocab, row_bytes)
    type: QuantType  # of rows

    def seen_shape(self, count: int) -> tuple[int, int]:
        """Of a matrix of so many of `rows`."""
        return count, self.frequent.shape[1]
