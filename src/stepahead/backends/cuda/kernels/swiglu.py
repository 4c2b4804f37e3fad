"""The gated activation of a feed-forward layer, and its half-precision form where asked."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.kernels.functions import padded_width, row_block, sigmoid, store_half_row
from stepahead.backends.cuda.kernels.rms_norm import new_half_rows
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.rows import Rows

COLUMNS = 1024  # of a program, where no row has to be seen as a whole
MIN_LIMIT = 1e-6
"""A limit up to it means none."""


def swiglu(launch: Launcher, gate: torch.Tensor, up: torch.Tensor, limit: float, with_half: bool = False) -> Rows:
    """silu(gate) * up, both (num_rows, width); with a limit: silu capped at it, up clipped to it on both sides."""
    num_rows, width = gate.shape
    out = torch.empty_like(gate)
    half = new_half_rows(num_rows, width, gate.device) if with_half else None
    columns = row_block(width) if with_half else COLUMNS
    launch(
        _swiglu,
        (triton.cdiv(width, columns), num_rows),
        gate,
        up,
        out,
        out if half is None else half.values,
        out if half is None else half.exponents,
        limit,
        num_warps=16 if columns > 8192 else 8 if columns > COLUMNS else 4,
        WIDTH=width,
        COLUMNS=columns,
        PADDED=padded_width(width),
        HAS_LIMIT=limit > MIN_LIMIT,
        WITH_HALF=with_half,
    )
    return Rows(out, half)


@triton.jit
def gated(gate, up, limit, HAS_LIMIT: tl.constexpr):
    """NaN passes: a comparison with it is false."""
    activated = gate * sigmoid(gate)
    if HAS_LIMIT:
        activated = tl.where(activated > limit, limit, activated)
        up = tl.where(up > limit, limit, up)
        up = tl.where(up < -limit, -limit, up)
    return activated * up


@triton.jit
def _swiglu(
    gate,
    up,
    out,
    halves,
    exponents,
    limit,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    PADDED: tl.constexpr,
    HAS_LIMIT: tl.constexpr,
    WITH_HALF: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    exists = columns < WIDTH
    at = row * WIDTH + columns
    gates = tl.load(gate + at, mask=exists, other=0.0)
    ups = tl.load(up + at, mask=exists, other=0.0)
    y = gated(gates, ups, limit, HAS_LIMIT)
    tl.store(out + at, y, mask=exists)
    if WITH_HALF:
        store_half_row(y, row, columns, halves, exponents, PADDED)


def compile_cases() -> tuple[CompileCase, ...]:
    types = {"gate": "*fp32", "up": "*fp32", "out": "*fp32", "halves": "*fp16", "exponents": "*fp32", "limit": "fp32"}
    return tuple(
        CompileCase(
            name=f"swiglu {width}{' with halves' if with_half else ''}",
            kernel=_swiglu,
            types=types,
            constexprs={
                "WIDTH": width,
                "COLUMNS": row_block(width) if with_half else COLUMNS,
                "PADDED": padded_width(width),
                "HAS_LIMIT": True,
                "WITH_HALF": with_half,
            },
            num_warps=16 if with_half else 4,
            max_registers=128,
            has_wide_loads=True,
        )
        for width, with_half in ((11264, False), (11264, True))
    )
