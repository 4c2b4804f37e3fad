"""Rows that a pass gives: all of them to where whoever launched it finds them, some to where later passes do."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.launch import Launcher

COLUMNS = 1024  # of a program


def keep_rows(launch: Launcher, x: torch.Tensor, copy: torch.Tensor, rows: torch.Tensor, kept: torch.Tensor) -> None:
    """copy[r] = kept[rows[r]] = x[r], float32; rows: (num_rows,) int32, a negative one is kept nowhere."""
    width = x.shape[1]
    assert copy.shape == x.shape and kept.shape[1] == width and rows.shape[0] == x.shape[0]
    grid = (triton.cdiv(width, COLUMNS), x.shape[0])
    launch(_keep_rows, grid, x, copy, rows, kept, WIDTH=width, COLUMNS=COLUMNS)


@triton.jit
def _keep_rows(x, copy, rows, kept, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    exists = columns < WIDTH
    values = tl.load(x + row * WIDTH + columns, mask=exists)
    tl.store(copy + row * WIDTH + columns, values, mask=exists)
    target = tl.load(rows + row).to(tl.int64)
    if target >= 0:
        tl.store(kept + target * WIDTH + columns, values, mask=exists)


def compile_cases() -> tuple[CompileCase, ...]:
    return (
        CompileCase(
            name="keep_rows 4096",
            kernel=_keep_rows,
            types={"x": "*fp32", "copy": "*fp32", "rows": "*i32", "kept": "*fp32"},
            constexprs={"WIDTH": 4096, "COLUMNS": COLUMNS},
            max_registers=64,
            has_wide_loads=True,
        ),
    )
