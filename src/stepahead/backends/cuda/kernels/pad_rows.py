"""Rows of a pass as the rows of a larger one: the last one stands for those that are missing."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.launch import Launcher

COLUMNS = 1024  # of a program


def pad_rows(launch: Launcher, source: torch.Tensor, target: torch.Tensor) -> None:
    """target[r] = source[min(r, rows of source - 1)]; both are (num_rows, width) float32."""
    width = source.shape[1]
    assert target.shape[1] == width and 0 < source.shape[0] <= target.shape[0]
    grid = (triton.cdiv(width, COLUMNS), target.shape[0])
    launch(_pad_rows, grid, source, target, source.shape[0] - 1, WIDTH=width, COLUMNS=COLUMNS)


@triton.jit(do_not_specialize=["last"])
def _pad_rows(source, target, last, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(1)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    exists = columns < WIDTH
    values = tl.load(source + tl.minimum(row, last).to(tl.int64) * WIDTH + columns, mask=exists)
    tl.store(target + row.to(tl.int64) * WIDTH + columns, values, mask=exists)


def compile_cases() -> tuple[CompileCase, ...]:
    return (
        CompileCase(
            name="pad_rows 4096",
            kernel=_pad_rows,
            types={"source": "*fp32", "target": "*fp32", "last": "i32"},
            constexprs={"WIDTH": 4096, "COLUMNS": COLUMNS},
            max_registers=64,
            has_wide_loads=True,
        ),
    )
