"""What a product of few rows left whose K was split, before the parts are added up."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class SplitSums:
    parts: torch.Tensor  # (splits, num_rows, num_out) float32
    exponents: torch.Tensor  # (num_rows,) float32 powers of two: the sum is multiplied with

    @property
    def shape(self) -> tuple[int, int]:
        """Of their sum."""
        return self.parts.shape[1], self.parts.shape[2]
