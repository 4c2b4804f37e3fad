"""The sum of two rows."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.launch import Launcher

COLUMNS = 1024  # of a program


def add(launch: Launcher, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x + y, both (num_rows, width)."""
    num_rows, width = x.shape
    out = torch.empty_like(x)
    launch(_add, (triton.cdiv(width, COLUMNS), num_rows), x, y, out, WIDTH=width, COLUMNS=COLUMNS)
    return out


@triton.jit
def _add(x, y, out, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    exists = columns < WIDTH
    at = tl.program_id(1).to(tl.int64) * WIDTH + columns
    total = tl.load(x + at, mask=exists) + tl.load(y + at, mask=exists)
    tl.store(out + at, total, mask=exists)


def compile_cases() -> tuple[CompileCase, ...]:
    return (
        CompileCase(
            name="add 4096",
            kernel=_add,
            types={"x": "*fp32", "y": "*fp32", "out": "*fp32"},
            constexprs={"WIDTH": 4096, "COLUMNS": COLUMNS},
            max_registers=64,
            has_wide_loads=True,
        ),
    )
