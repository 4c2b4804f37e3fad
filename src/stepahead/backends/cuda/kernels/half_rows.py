"""float32 rows to the halves that products read, where no other op has written them on its way."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.kernels.functions import padded_width, row_block, store_half_row
from stepahead.backends.cuda.kernels.rms_norm import new_half_rows
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.rows import HalfRows


def half_rows(launch: Launcher, x: torch.Tensor) -> HalfRows:
    """x: (num_rows, width) float32."""
    num_rows, width = x.shape
    half = new_half_rows(num_rows, width, x.device)
    launch(
        _half_rows,
        (num_rows,),
        x,
        half.values,
        half.exponents,
        num_warps=_num_warps(width),
        WIDTH=width,
        BLOCK=row_block(width),
        PADDED=padded_width(width),
    )
    return half


def _num_warps(width: int) -> int:
    return 16 if row_block(width) > 8192 else 8


@triton.jit
def _half_rows(x, halves, exponents, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PADDED: tl.constexpr):
    """One program a row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    y = tl.load(x + row * WIDTH + columns, mask=columns < WIDTH, other=0.0)
    store_half_row(y, row, columns, halves, exponents, PADDED)


def compile_cases() -> tuple[CompileCase, ...]:
    return tuple(
        CompileCase(
            name=f"half_rows {width}",
            kernel=_half_rows,
            types={"x": "*fp32", "halves": "*fp16", "exponents": "*fp32"},
            constexprs={"WIDTH": width, "BLOCK": row_block(width), "PADDED": padded_width(width)},
            num_warps=_num_warps(width),
            max_registers=128,
            has_wide_loads=True,
        )
        for width in (12288,)
    )
