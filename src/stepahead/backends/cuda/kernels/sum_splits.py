"""The sum of the parts of K, in order, times the rows' powers of two."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.launch import Launcher

COLUMNS = 256


def sum_splits(launch: Launcher, parts: torch.Tensor, exponents: torch.Tensor, y: torch.Tensor) -> None:
    """parts (splits, num_rows, num_out), exponents (num_rows,), y (num_rows, num_out): float32."""
    splits, num_rows, num_out = parts.shape
    grid = num_rows, triton.cdiv(num_out, COLUMNS)
    launch(_sum_splits, grid, parts, exponents, y, num_rows, num_out, SPLITS=splits, COLUMNS=COLUMNS)


@triton.jit(do_not_specialize=["num_rows", "num_out"])
def _sum_splits(parts, exponents, y, num_rows, num_out, SPLITS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = column < num_out
    at = row.to(tl.int64) * num_out + column
    total = tl.load(parts + at, mask=mask)
    for split in tl.static_range(1, SPLITS):
        total += tl.load(parts + split * num_rows.to(tl.int64) * num_out + at, mask=mask)
    tl.store(y + at, total * tl.load(exponents + row), mask=mask)
