"""A set of experts that slides along with the position: what makes neighbouring rows share some, as a text's do.

The row at position p chooses among `width` experts, counted on from `step` times p: the router logits of all others
are lower by a constant. Of the eight that two neighbours have, a third is the same.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DISLIKE = 64.0
"""Far more than logits differ by. Nothing is added to those of the set instead: sigmoids near 1 are equal in float32,
and then ids would decide."""


@dataclass(frozen=True, slots=True)
class SlidingSet:
    num_experts: int
    width: int
    step: int

    @classmethod
    def of(cls, num_experts: int, top_k: int) -> "SlidingSet":
        """Neighbours share width - step experts of the set, each chosen by both with (top_k / width)^2: of 8, a third
        is shared at 19 and 4, and four rows choose 21.4 of 288."""
        return cls(num_experts, min(max(top_k + 1, round(top_k * 19 / 8)), num_experts), max(1, top_k // 2))

    def starts(self, num_positions: int) -> npt.NDArray[np.int64]:
        return np.arange(num_positions) * self.step % self.num_experts

    def table(self, num_positions: int) -> npt.NDArray[np.float32]:
        """(num_positions, num_experts) to be added to logits."""
        experts = (np.arange(self.num_experts)[None, :] - self.starts(num_positions)[:, None]) % self.num_experts
        return np.where(experts < self.width, np.float32(0), np.float32(-DISLIKE))
