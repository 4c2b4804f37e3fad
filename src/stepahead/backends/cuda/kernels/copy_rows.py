"""Rows of one tensor over those of another."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.launch import Launcher

COLUMNS = 1024  # of a program


def copy_rows(
    launch: Launcher, target: torch.Tensor, target_row: int, source: torch.Tensor, source_row: int, num_rows: int
) -> None:
    """target[target_row :] = source[source_row :], num_rows rows. The numbers are the recording's in a replay."""
    width = source.shape[1]
    grid = (triton.cdiv(width, COLUMNS), num_rows)
    launch(_copy_rows, grid, target, source, target_row, source_row, WIDTH=width, COLUMNS=COLUMNS)


@triton.jit(do_not_specialize=["target_row", "source_row"])
def _copy_rows(target, source, target_row, source_row, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    exists = columns < WIDTH
    values = tl.load(source + (source_row + row) * WIDTH + columns, mask=exists)
    tl.store(target + (target_row + row) * WIDTH + columns, values, mask=exists)


def compile_cases() -> tuple[CompileCase, ...]:
    return (
        CompileCase(
            name="copy_rows 4096",
            kernel=_copy_rows,
            types={"target": "*fp32", "source": "*fp32", "target_row": "i32", "source_row": "i32"},
            constexprs={"WIDTH": 4096, "COLUMNS": COLUMNS},
            max_registers=64,
            has_wide_loads=True,
        ),
    )
