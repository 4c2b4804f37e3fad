"""What experts gave, before those of a row are added up."""

from dataclasses import dataclass

import torch

from stepahead.backends.cuda.routing import Routing


@dataclass(frozen=True, slots=True, eq=False)
class ExpertOutputs:
    values: torch.Tensor  # (pairs or more, width) float32, by the number of the pair; those without an expert: anything
    routing: Routing
    shared: torch.Tensor | None = None  # (num_rows, width) float32, of the expert that is always on

    @property
    def shape(self) -> tuple[int, int]:
        """Of their sum."""
        return self.routing.num_rows, self.values.shape[1]
