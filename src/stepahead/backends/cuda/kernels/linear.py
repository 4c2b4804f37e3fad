"""Rows times packed weights, for few rows: they all ride along with one reading of the weights."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.kernels.weight_tile import product
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.rows import HalfRows

BN = 64
MAX_ROWS = 16
"""Of one launch; fewer are padded inside, which costs nothing: weights are what takes time."""


@triton.jit(do_not_specialize=["num_rows"])
def linear_kernel(
    words, x, exponents, y, num_rows, num_out, num_blocks, FORMAT: tl.constexpr, BN: tl.constexpr, R: tl.constexpr
):
    """y (num_rows, num_out) = x W^T; a program makes BN outputs of all rows."""
    first = tl.program_id(0) * BN
    row = tl.arange(0, R)
    mask = row < num_rows
    tiles = (num_out + 15) // 16
    acc = product(
        words, first // 16, tiles - first // 16, num_blocks, x, row * (num_blocks * 288), mask,
        FORMAT, BN, R,
    )  # fmt: skip
    exponent = tl.load(exponents + row, mask=mask, other=0.0)
    out = first + tl.arange(0, BN)
    at = row[None, :].to(tl.int64) * num_out + out[:, None]
    tl.store(y + at, acc * exponent[None, :], mask=mask[None, :] & (out < num_out)[:, None])


def linear(launch: Launcher, half: HalfRows, matrix: CudaMatrix) -> torch.Tensor:
    """(num_rows, out) float32, for 1 to MAX_ROWS rows and packed (out, in) weights."""
    num_rows, num_out = half.values.shape[0], matrix.num_out
    assert 1 <= num_rows <= MAX_ROWS and matrix.format is not None
    y = torch.empty((num_rows, num_out), dtype=torch.float32, device=half.values.device)
    launch(
        linear_kernel, (-(-num_out // BN),), matrix.data, half.values, half.exponents, y, num_rows, num_out,
        matrix.num_blocks, FORMAT=matrix.format, BN=BN, R=MAX_ROWS, num_warps=BN // 16,
    )  # fmt: skip
    return y
