"""Two rows side by side."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.launch import Launcher

COLUMNS = 1024  # of a program


def concat(launch: Launcher, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(num_rows, a), (num_rows, b) -> (num_rows, a + b)."""
    num_rows, left = x.shape
    right = y.shape[1]
    out = torch.empty((num_rows, left + right), dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(left + right, COLUMNS), num_rows)
    launch(_concat, grid, x, y, out, LEFT=left, RIGHT=right, COLUMNS=COLUMNS)
    return out


@triton.jit
def _concat(x, y, out, LEFT: tl.constexpr, RIGHT: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    is_left = columns < LEFT
    is_right = (columns >= LEFT) & (columns < LEFT + RIGHT)
    left = tl.load(x + row * LEFT + columns, mask=is_left, other=0.0)
    right = tl.load(y + row * RIGHT + columns - LEFT, mask=is_right, other=0.0)
    both = tl.where(is_left, left, right)
    tl.store(out + row * (LEFT + RIGHT) + columns, both, mask=is_left | is_right)


def compile_cases() -> tuple[CompileCase, ...]:
    return (
        CompileCase(
            name="concat 4096 and 4096",
            kernel=_concat,
            types={"x": "*fp32", "y": "*fp32", "out": "*fp32"},
            constexprs={"LEFT": 4096, "RIGHT": 4096, "COLUMNS": COLUMNS},
            max_registers=64,
            has_wide_loads=True,
        ),
    )
