"""Weights on the GPU: packed records of a quantised type, or the numbers of a float type."""

from dataclasses import dataclass

import torch

from stepahead.backends.cuda.formats.format import FORMATS, Format
from stepahead.backends.cuda.formats.pack import record_grid
from stepahead.gguf.quants import QuantType


@dataclass(frozen=True, slots=True, eq=False)
class CudaMatrix:
    """(out, in) or (experts, out, in).

    data: int32 records (experts * row tiles, K blocks, record words) where `format` is given; otherwise the numbers
    themselves, (experts * out, in). An expert begins with a tile of its own. has_wide_tiles: whether many rows may be
    multiplied in wider tiles than few, see TileCheck.
    """

    data: torch.Tensor
    type: QuantType
    shape: tuple[int, ...]
    has_wide_tiles: bool = True

    @property
    def format(self) -> Format | None:
        return FORMATS.get(self.type)

    @property
    def nbytes(self) -> int:
        return self.data.numel() * self.data.element_size()

    @property
    def num_out(self) -> int:
        return self.shape[-2]

    @property
    def num_blocks(self) -> int:
        """Records along the inputs."""
        return self.data.shape[1]

    @property
    def expert_tiles(self) -> int:
        """Records along the outputs, of one expert."""
        return record_grid(self.shape)[0]
