"""Rows by number."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.launch import Launcher

COLUMNS = 1024  # of a program


def gather_rows(launch: Launcher, x: torch.Tensor, rows: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """x[rows]; rows: (n,) int32. A negative number is no row, and leaves what memory held. out: where to."""
    width = x.shape[1]
    if out is None:
        out = torch.empty((rows.shape[0], width), dtype=x.dtype, device=x.device)
    assert out.shape == (rows.shape[0], width)
    launch(_gather_rows, (triton.cdiv(width, COLUMNS), rows.shape[0]), x, rows, out, WIDTH=width, COLUMNS=COLUMNS)
    return out


@triton.jit
def _gather_rows(x, rows, out, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    source = tl.load(rows + row).to(tl.int64)
    if source < 0:
        return
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    exists = columns < WIDTH
    values = tl.load(x + source * WIDTH + columns, mask=exists)
    tl.store(out + row * WIDTH + columns, values, mask=exists)


def compile_cases() -> tuple[CompileCase, ...]:
    return (
        CompileCase(
            name="gather_rows 4096",
            kernel=_gather_rows,
            types={"x": "*fp32", "rows": "*i32", "out": "*fp32"},
            constexprs={"WIDTH": 4096, "COLUMNS": COLUMNS},
            max_registers=64,
            has_wide_loads=True,
        ),
    )
