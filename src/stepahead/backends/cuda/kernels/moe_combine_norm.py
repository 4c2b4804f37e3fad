"""What a row's experts gave, weighted and added, plus what the row was; and the norm of that, with halves: how a layer
of experts hands over to the next one."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.expert_outputs import ExpertOutputs
from stepahead.backends.cuda.kernels.functions import padded_width, row_block
from stepahead.backends.cuda.kernels.moe_combine import expert_arguments, expert_options, sum_of_experts
from stepahead.backends.cuda.kernels.rms_norm import NUM_WARPS, new_half_rows, store_norm
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.rows import Rows


def moe_combine_norm(
    launch: Launcher, experts: ExpertOutputs, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, Rows]:
    """residual + their sum, and its norm, with the bits of `moe_combine` and `add_rms_norm` one after the other."""
    num_rows, width = experts.shape
    out, total = (torch.empty((num_rows, width), dtype=torch.float32, device=weight.device) for _ in range(2))
    half = new_half_rows(num_rows, width, weight.device)
    launch(
        _moe_combine_norm,
        (num_rows,),
        *expert_arguments(experts),
        total if residual is None else residual,
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
        HAS_RESIDUAL=residual is not None,
        **expert_options(experts),
    )
    return total, Rows(out, half)


@triton.jit
def _moe_combine_norm(
    outputs,
    weights,
    shared,
    residual,
    weight,
    total,
    out,
    halves,
    exponents,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    PADDED: tl.constexpr,
    TOP_K: tl.constexpr,
    PADDED_K: tl.constexpr,
    HAS_SHARED: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    """One program a row, as in `rms_norm`: the squares have to be added in the same order."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    exists = columns < WIDTH
    at = row * WIDTH + columns
    values = sum_of_experts(outputs, weights, shared, row, columns, exists, WIDTH, TOP_K, PADDED_K, HAS_SHARED)
    if HAS_RESIDUAL:
        values = tl.load(residual + at, mask=exists, other=0.0) + values
    tl.store(total + at, values, mask=exists)
    store_norm(values, row, columns, exists, weight, eps, out, halves, exponents, WIDTH, PADDED)


def compile_cases() -> tuple[CompileCase, ...]:
    pointers = ("outputs", "weights", "shared", "residual", "weight", "total", "out")
    types = dict.fromkeys(pointers, "*fp32") | {"halves": "*fp16", "exponents": "*fp32", "eps": "fp32"}
    return tuple(
        CompileCase(
            name=f"moe_combine_norm {width} top {top_k}{' and shared' if has_shared else ''}",
            kernel=_moe_combine_norm,
            types=types,
            constexprs={
                "WIDTH": width,
                "BLOCK": row_block(width),
                "PADDED": padded_width(width),
                "TOP_K": top_k,
                "PADDED_K": top_k,
                "HAS_SHARED": has_shared,
                "HAS_RESIDUAL": True,
            },
            num_warps=NUM_WARPS,
            max_registers=255,
            has_wide_loads=True,
            required=("FFMA",),
        )
        for width, top_k, has_shared in ((4096, 8, False), (4096, 8, True), (8192, 8, True))
    )
