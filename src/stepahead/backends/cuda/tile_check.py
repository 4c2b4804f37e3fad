"""Whether a row has the same bits in tiles of few rows and in wide ones, tried on the very device before it matters.

Few rows and many are multiplied by matrix instructions of several widths, and no document says that they add alike. So
of each kind of products the first weights that are loaded multiply some rows, in tiles of either size. Where one bit
differs, that kind keeps to the tiles of few rows: prompts are slower, and a row's bits are its own.

What is tried is what a model has: its types, its shapes and most often its kernels, which are compiled once anyway.
"""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stepahead.backends.cuda.configs import FEW_ROWS, MANY_ROWS
from stepahead.backends.cuda.device import Device
from stepahead.backends.cuda.formats.format import TILE_ROWS
from stepahead.backends.cuda.kernels.expert_tile import ExpertTiles
from stepahead.backends.cuda.kernels.linear import linear
from stepahead.backends.cuda.kernels.moe_blocked import group_pairs
from stepahead.backends.cuda.kernels.moe_down import moe_down
from stepahead.backends.cuda.kernels.moe_gate_up import moe_gate_up
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.routing import Routing
from stepahead.backends.cuda.rows import Rows
from stepahead.backends.cuda.splits import num_float_splits, num_splits
from stepahead.gguf.quants import QuantType

log = logging.getLogger("stepahead")

NUM_ROWS = 129
"""Every place of a tile of 128 rows, and the first one of a tile that is not full."""
SPREAD = 12
"""A row's numbers are of sizes from 2^-12 to 2^12: where sums are cut shows in the small ones."""
MAX_OUT = 1 << 14
"""Outputs that are tried of a matrix; more than of any that is summed in parts."""
TOP_K = 8


class TileCheck:
    """What was found on one device, by kind of products."""

    def __init__(self, device: Device, is_tried: bool | None = None) -> None:
        """is_tried None: not in Triton's interpreter, whose products are BLAS's: bits go by a row's place."""
        self._device = device
        self._is_tried = not device.is_interpreted if is_tried is None else is_tried
        self._launch = Launcher(device)  # whoever counts or records launches hears of none of these
        self._has_wide: dict[str, bool] = {}
        self._inexact: set[str] = set()

    def checked(self, matrix: CudaMatrix) -> CudaMatrix:
        """The matrix, with what is known of the tiles that it may be multiplied in."""
        kind = _kind(matrix)
        if not self._is_tried or kind is None:
            return matrix
        if kind not in self._has_wide:
            self._has_wide[kind] = self._try(kind, matrix)
        return replace(matrix, has_wide_tiles=self._has_wide[kind])

    def describe(self) -> str:
        """Empty: all that was loaded has wide tiles."""
        narrow = sorted(kind for kind, has_wide in self._has_wide.items() if not has_wide and kind not in self._inexact)
        said = [f"tiles of {FEW_ROWS} rows for {', '.join(narrow)}"] if narrow else []
        return "; ".join(said + ([f"inexact: {', '.join(sorted(self._inexact))}"] if self._inexact else []))

    def _try(self, kind: str, matrix: CudaMatrix) -> bool:
        x = self._device.sent(_numbers(matrix.shape[-1]))
        if rows_are_alike(self._launch, matrix, x):
            return True
        name = self._device.name
        if rows_are_alike(self._launch, replace(matrix, has_wide_tiles=False), x):
            log.warning(
                "%s: %s are multiplied %d rows at a time: in wider tiles this GPU gives a row other bits; "
                "prompts take longer, texts are the same",
                name,
                kind,
                FEW_ROWS,
            )
        else:
            self._inexact.add(kind)
            log.warning(
                "%s: products of %s are not exact here: a row has other bits among other rows, so drafts and other "
                "requests may change texts",
                name,
                kind,
            )
        return False


def rows_are_alike(launch: Launcher, matrix: CudaMatrix, x: torch.Tensor) -> bool:
    """Whether each row of x has the same bits in the tiles of all of them as among FEW_ROWS at most."""
    for products in (_gate_up, _down) if len(matrix.shape) == 3 else (_linear,):
        together = products(launch, matrix, x)
        for first in range(0, len(x), FEW_ROWS):
            few = products(launch, matrix, x[first : first + FEW_ROWS])
            if not torch.equal(few.view(torch.int32), together[first : first + FEW_ROWS].view(torch.int32)):
                return False
    return True


def _linear(launch: Launcher, matrix: CudaMatrix, x: torch.Tensor) -> torch.Tensor:
    num_out = min(matrix.num_out, MAX_OUT)
    data = matrix.data[: num_out if matrix.format is None else -(-num_out // TILE_ROWS)]
    return linear(launch, Rows(x), replace(matrix, data=data, shape=(num_out, matrix.shape[1])))


def _gate_up(launch: Launcher, matrix: CudaMatrix, x: torch.Tensor) -> torch.Tensor:
    """The matrix as both, which then stand in one tile."""
    hidden = moe_gate_up(launch, Rows(x), _tiles(launch, matrix, x), matrix, matrix, 0.0)
    return hidden.values.view(len(x), -1)


def _down(launch: Launcher, matrix: CudaMatrix, x: torch.Tensor) -> torch.Tensor:
    tiles = _tiles(launch, matrix, x)
    of_pairs = x.repeat_interleave(tiles.routing.padded_top_k, dim=0)
    return moe_down(launch, Rows(of_pairs), tiles, matrix).view(len(x), -1)


def _tiles(launch: Launcher, matrix: CudaMatrix, x: torch.Tensor) -> ExpertTiles:
    """All rows go to the same experts, so that those of many fill wide tiles."""
    num_rows, num_experts = len(x), matrix.shape[0]
    top_k = 1 << (min(TOP_K, num_experts).bit_length() - 1)  # no pair is padding
    routing = Routing.empty(num_rows, top_k, x.device)
    routing.ids.fill_(-1)
    routing.ids[:num_rows] = torch.arange(top_k, dtype=torch.int32, device=x.device)
    if num_rows <= FEW_ROWS:
        return ExpertTiles(routing, None)
    rows = MANY_ROWS if matrix.has_wide_tiles else FEW_ROWS
    return ExpertTiles(routing, group_pairs(launch, routing, num_experts, rows))


def _kind(matrix: CudaMatrix) -> str | None:
    """Of products that have a kernel and its tiles in common. None: all rows are multiplied without matrix units."""
    name = matrix.type.name
    if len(matrix.shape) == 3:
        return f"{name} experts"
    if matrix.type == QuantType.F32:
        return None
    if matrix.format is None:
        splits = num_float_splits(matrix.num_out, matrix.shape[1])
    else:
        splits = num_splits(matrix.num_out, matrix.num_blocks)
    return f"{name} in {splits} parts" if splits > 1 else name


def _numbers(width: int) -> npt.NDArray[Any]:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((NUM_ROWS, width), np.float32)
    return np.ldexp(values, rng.integers(-SPREAD, SPREAD + 1, values.shape, np.int32))
