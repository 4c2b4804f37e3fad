"""Products that have no kernel of their own yet, by what is there: right, and slow. To be replaced one by one."""

import numpy as np
import torch

from stepahead.backends.cuda.formats.fields import values
from stepahead.backends.cuda.formats.format import TILE_ROWS
from stepahead.backends.cuda.formats.pack import unpack
from stepahead.backends.cuda.kernels.half_rows import half_rows
from stepahead.backends.cuda.kernels.linear import MAX_ROWS
from stepahead.backends.cuda.kernels.linear import linear as linear_of_few
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.rows import HalfRows, Rows


def embed(table: CudaMatrix, ids: torch.Tensor) -> torch.Tensor:
    if table.format is None:
        return table.data[ids.long()].float().contiguous()
    places = ids.long()
    records = table.data[places // TILE_ROWS].cpu().numpy().view(np.uint32)
    shape = len(records) * TILE_ROWS, table.shape[1]
    rows = values(unpack(records, table.format, shape), table.format).reshape(len(records), TILE_ROWS, -1)
    return torch.from_numpy(rows[np.arange(len(records)), (places % TILE_ROWS).cpu().numpy()].copy()).to(ids.device)


def linear(launch: Launcher, x: Rows, matrix: CudaMatrix) -> torch.Tensor:
    if matrix.format is None:
        weights = matrix.data.double().T
        return torch.cat([(row[None].double() @ weights).float() for row in x.values])
    if x.half is None:
        x.half = half_rows(launch, x.values)
    half, parts = x.half, range(0, x.shape[0], MAX_ROWS)
    few = [HalfRows(half.values[at : at + MAX_ROWS], half.exponents[at : at + MAX_ROWS]) for at in parts]
    return torch.cat([linear_of_few(launch, part, matrix) for part in few])
