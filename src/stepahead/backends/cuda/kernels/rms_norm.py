"""RMS norm of rows, alone or of a sum of two, also in the half-precision form that products read."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.kernels.functions import half_stride, padded_width, row_block, store_half_row
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.rows import HalfRows, Rows

NUM_WARPS = 8


def rms_norm(launch: Launcher, x: torch.Tensor, weight: torch.Tensor, eps: float) -> Rows:
    """x (num_rows, width) / sqrt(mean of squares + eps) * weight (1, width)."""
    return _launch(launch, x, None, weight, eps)[1]


def add_rms_norm(
    launch: Launcher, x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, Rows]:
    """x + y, and its norm, with the bits of the two ops one after the other."""
    return _launch(launch, x, y, weight, eps)


def _launch(
    launch: Launcher, x: torch.Tensor, y: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, Rows]:
    num_rows, width = x.shape
    out = torch.empty_like(x)
    total = x if y is None else torch.empty_like(x)
    half = new_half_rows(num_rows, width, x.device)
    launch(
        _rms_norm,
        (num_rows,),
        x,
        x if y is None else y,
        weight,
        total,
        out,
        half.values,
        half.exponents,
        eps,
        num_warps=NUM_WARPS,
        WIDTH=width,
        BLOCK=row_block(width),
        PADDED=padded_width(width),
        IS_SUM=y is not None,
    )
    return total, Rows(out, half)


def new_half_rows(num_rows: int, width: int, device: torch.device) -> HalfRows:
    """Memory for them, to be filled by a kernel."""
    return HalfRows(
        torch.empty((num_rows, half_stride(width)), dtype=torch.float16, device=device),
        torch.empty((num_rows,), dtype=torch.float32, device=device),
    )


@triton.jit
def _rms_norm(
    x,
    y,
    weight,
    total,
    out,
    halves,
    exponents,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PADDED: tl.constexpr,
    IS_SUM: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    exists = columns < WIDTH
    at = row * WIDTH + columns
    values = tl.load(x + at, mask=exists, other=0.0)
    if IS_SUM:
        values = values + tl.load(y + at, mask=exists, other=0.0)
        tl.store(total + at, values, mask=exists)
    store_norm(values, row, columns, exists, weight, eps, out, halves, exponents, WIDTH, PADDED)


@triton.jit
def store_norm(
    values,
    row,
    columns,
    exists,
    weight,
    eps,
    out,
    halves,
    exponents,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
):
    """values: a whole row, zeros behind its width; columns from 0 on, a power of two of them."""
    weights = tl.load(weight + columns, mask=exists, other=0.0)
    mean_square = tl.div_rn(tl.sum(values * values, axis=0), WIDTH * 1.0)
    inverse = tl.div_rn(1.0, tl.sqrt_rn(mean_square + eps))
    normed = values * inverse * weights
    tl.store(out + row * WIDTH + columns, normed, mask=exists)
    # Behind the row there is 0 * inverse, which is NaN for a row that has no norm.
    store_half_row(tl.where(exists, normed, 0.0), row, columns, halves, exponents, PADDED)


def compile_cases() -> tuple[CompileCase, ...]:
    pointers = ("x", "y", "weight", "total", "out")
    types = dict.fromkeys(pointers, "*fp32") | {"halves": "*fp16", "exponents": "*fp32", "eps": "fp32"}
    return tuple(
        CompileCase(
            name=f"rms_norm {width}{' of a sum' if is_sum else ''}",
            kernel=_rms_norm,
            types=types,
            constexprs={
                "WIDTH": width,
                "BLOCK": row_block(width),
                "PADDED": padded_width(width),
                "IS_SUM": is_sum,
            },
            num_warps=NUM_WARPS,
            max_registers=128,
            has_wide_loads=True,
        )
        for width, is_sum in ((4096, False), (4096, True))
    )
