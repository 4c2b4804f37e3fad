"""Each head of a row times the sigmoid of its gate, and the half-precision form where asked."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.kernels.functions import padded_width, row_block, sigmoid, store_half_row
from stepahead.backends.cuda.kernels.rms_norm import new_half_rows
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.rows import Rows

COLUMNS = 1024  # of a program, where no row has to be seen as a whole


def head_gate(launch: Launcher, x: torch.Tensor, gate: torch.Tensor, with_half: bool = False) -> Rows:
    """x (num_rows, heads * head_dim), gate (num_rows, heads)."""
    num_rows, width = x.shape
    out = torch.empty_like(x)
    half = new_half_rows(num_rows, width, x.device) if with_half else None
    columns = row_block(width) if with_half else COLUMNS
    launch(
        _head_gate,
        (triton.cdiv(width, columns), num_rows),
        x,
        gate,
        out,
        out if half is None else half.values,
        out if half is None else half.exponents,
        num_warps=16 if columns > 8192 else 8 if columns > COLUMNS else 4,
        WIDTH=width,
        COLUMNS=columns,
        PADDED=padded_width(width),
        HEADS=gate.shape[1],
        WITH_HALF=with_half,
    )
    return Rows(out, half)


@triton.jit
def _head_gate(
    x,
    gate,
    out,
    halves,
    exponents,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    PADDED: tl.constexpr,
    HEADS: tl.constexpr,
    WITH_HALF: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    exists = columns < WIDTH
    at = row * WIDTH + columns
    values = tl.load(x + at, mask=exists, other=0.0)
    gates = tl.load(gate + row * HEADS + columns // (WIDTH // HEADS), mask=exists, other=0.0)
    y = values * sigmoid(gates)
    tl.store(out + at, y, mask=exists)
    if WITH_HALF:
        store_half_row(y, row, columns, halves, exponents, PADDED)


def compile_cases() -> tuple[CompileCase, ...]:
    types = {"x": "*fp32", "gate": "*fp32", "out": "*fp32", "halves": "*fp16", "exponents": "*fp32"}
    return tuple(
        CompileCase(
            name=f"head_gate {heads} heads{' with halves' if with_half else ''}",
            kernel=_head_gate,
            types=types,
            constexprs={
                "WIDTH": 128 * heads,
                "COLUMNS": row_block(128 * heads) if with_half else COLUMNS,
                "PADDED": padded_width(128 * heads),
                "HEADS": heads,
                "WITH_HALF": with_half,
            },
            num_warps=16 if with_half else 4,
            max_registers=128,
            has_wide_loads=True,
        )
        for heads, with_half in ((64, False), (96, True))
    )
