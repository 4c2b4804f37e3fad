"""The parts of a product whose K was split, added up, plus what the row was; and the norm of that, with halves."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.kernels.functions import padded_width, row_block
from stepahead.backends.cuda.kernels.rms_norm import NUM_WARPS, new_half_rows, store_norm
from stepahead.backends.cuda.kernels.sum_splits import sum_of_splits
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.rows import Rows
from stepahead.backends.cuda.split_sums import SplitSums


def sum_splits_norm(
    launch: Launcher, sums: SplitSums, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, Rows]:
    """residual + their sum, and its norm, with the bits of `sum_splits` and `add_rms_norm` one after the other."""
    splits, num_rows, width = sums.parts.shape
    out, total = (torch.empty((num_rows, width), dtype=torch.float32, device=weight.device) for _ in range(2))
    half = new_half_rows(num_rows, width, weight.device)
    launch(
        _sum_splits_norm,
        (num_rows,),
        sums.parts,
        sums.exponents,
        total if residual is None else residual,
        weight,
        total,
        out,
        half.values,
        half.exponents,
        eps,
        num_rows,
        num_warps=NUM_WARPS,
        WIDTH=width,
        BLOCK=row_block(width),
        PADDED=padded_width(width),
        SPLITS=splits,
        HAS_RESIDUAL=residual is not None,
    )
    return total, Rows(out, half)


@triton.jit(do_not_specialize=["num_rows"])
def _sum_splits_norm(
    parts,
    part_exponents,
    residual,
    weight,
    total,
    out,
    halves,
    exponents,
    eps,
    num_rows,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PADDED: tl.constexpr,
    SPLITS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    """One program a row, as in `rms_norm`: the squares have to be added in the same order."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    exists = columns < WIDTH
    values = sum_of_splits(parts, part_exponents, row, columns, exists, num_rows, WIDTH, SPLITS)
    if HAS_RESIDUAL:
        values = tl.load(residual + row * WIDTH + columns, mask=exists, other=0.0) + values
    tl.store(total + row * WIDTH + columns, values, mask=exists)
    store_norm(values, row, columns, exists, weight, eps, out, halves, exponents, WIDTH, PADDED)


def compile_cases() -> tuple[CompileCase, ...]:
    pointers = ("parts", "part_exponents", "residual", "weight", "total", "out")
    types = dict.fromkeys(pointers, "*fp32") | {"halves": "*fp16", "exponents": "*fp32", "eps": "fp32"}
    return tuple(
        CompileCase(
            name=f"sum_splits_norm {width} of 4{' and a row' if has_residual else ''}",
            kernel=_sum_splits_norm,
            types=types | {"num_rows": "i32"},
            constexprs={
                "WIDTH": width,
                "BLOCK": row_block(width),
                "PADDED": padded_width(width),
                "SPLITS": 4,
                "HAS_RESIDUAL": has_residual,
            },
            num_warps=NUM_WARPS,
            max_registers=128,
            has_wide_loads=True,
        )
        for width, has_residual in ((4096, False), (4096, True))
    )
