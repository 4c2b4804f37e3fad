"""The sum of the parts of K, in order, times the rows' powers of two; then, where asked, what the row is added to."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.split_sums import SplitSums

COLUMNS = 256


def sum_splits(launch: Launcher, sums: SplitSums, residual: torch.Tensor | None = None) -> torch.Tensor:
    """residual + their sum, with the roundings of the ops that add them one by one; residual (num_rows, num_out)."""
    splits, num_rows, num_out = sums.parts.shape
    y = torch.empty((num_rows, num_out), dtype=torch.float32, device=sums.parts.device)
    launch(
        _sum_splits,
        (num_rows, triton.cdiv(num_out, COLUMNS)),
        sums.parts,
        sums.exponents,
        y if residual is None else residual,
        y,
        num_rows,
        num_out,
        SPLITS=splits,
        COLUMNS=COLUMNS,
        HAS_RESIDUAL=residual is not None,
    )
    return y


@triton.jit(do_not_specialize=["num_rows", "num_out"])
def _sum_splits(
    parts, exponents, residual, y, num_rows, num_out,
    SPLITS: tl.constexpr, COLUMNS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    exists = columns < num_out
    total = sum_of_splits(parts, exponents, row, columns, exists, num_rows, num_out, SPLITS)
    if HAS_RESIDUAL:
        total = tl.load(residual + row * num_out + columns, mask=exists, other=0.0) + total
    tl.store(y + row * num_out + columns, total, mask=exists)


@triton.jit
def sum_of_splits(parts, exponents, row, columns, exists, num_rows, num_out, SPLITS: tl.constexpr):
    parts += row * num_out + columns
    away = num_rows.to(tl.int64) * num_out  # from part to part
    total = tl.load(parts, mask=exists, other=0.0)
    for split in tl.static_range(1, SPLITS):
        total += tl.load(parts + split * away, mask=exists, other=0.0)
    return total * tl.load(exponents + row)


def compile_cases() -> tuple[CompileCase, ...]:
    return (
        CompileCase(
            name="sum_splits of 4",
            kernel=_sum_splits,
            types=dict.fromkeys(("parts", "exponents", "residual", "y"), "*fp32")
            | {"num_rows": "i32", "num_out": "i32"},
            constexprs={"SPLITS": 4, "COLUMNS": COLUMNS, "HAS_RESIDUAL": True},
            max_registers=64,
        ),
    )
