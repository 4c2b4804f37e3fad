"""What a row's experts gave, weighted and added in ascending id; then, where asked, what else the row is added to."""

from typing import Any

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.expert_outputs import ExpertOutputs
from stepahead.backends.cuda.launch import Launcher

COLUMNS = 512  # of a program: 16 bytes a thread and expert, all experts' loads in flight at once


def moe_combine(
    launch: Launcher,
    experts: ExpertOutputs,
    residual: torch.Tensor | None = None,  # (num_rows, width)
) -> torch.Tensor:
    """residual + (sum + shared), with the roundings of the ops that add them one by one."""
    num_rows, width = experts.shape
    out = torch.empty((num_rows, width), dtype=torch.float32, device=experts.values.device)
    launch(
        _moe_combine,
        (triton.cdiv(width, COLUMNS), num_rows),
        *expert_arguments(experts),
        experts.values if residual is None else residual,
        out,
        WIDTH=width,
        COLUMNS=COLUMNS,
        HAS_RESIDUAL=residual is not None,
        **expert_options(experts),
    )
    return out


def expert_arguments(experts: ExpertOutputs) -> tuple[torch.Tensor, ...]:
    """Of `sum_of_experts`, as are its options."""
    shared = experts.values if experts.shared is None else experts.shared
    return experts.values, experts.routing.weights, shared


def expert_options(experts: ExpertOutputs) -> dict[str, Any]:
    routing = experts.routing
    return {
        "TOP_K": routing.top_k,
        "PADDED_K": routing.padded_top_k,
        "HAS_SHARED": experts.shared is not None,
    }


@triton.jit
def _moe_combine(
    outputs,
    weights,
    shared,
    residual,
    out,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    TOP_K: tl.constexpr,
    PADDED_K: tl.constexpr,
    HAS_SHARED: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    exists = columns < WIDTH
    total = sum_of_experts(outputs, weights, shared, row, columns, exists, WIDTH, TOP_K, PADDED_K, HAS_SHARED)
    if HAS_RESIDUAL:
        total = tl.load(residual + row * WIDTH + columns, mask=exists, other=0.0) + total
    tl.store(out + row * WIDTH + columns, total, mask=exists)


@triton.jit
def sum_of_experts(
    outputs,
    weights,
    shared,
    row,
    columns,
    exists,
    WIDTH: tl.constexpr,
    TOP_K: tl.constexpr,
    PADDED_K: tl.constexpr,
    HAS_SHARED: tl.constexpr,
):
    total = tl.zeros((columns.shape[0],), tl.float32)
    for slot in tl.static_range(TOP_K):
        pair = row * PADDED_K + slot
        weight = tl.load(weights + pair)
        part = tl.load(outputs + pair * WIDTH + columns, mask=exists, other=0.0)
        total = tl.fma(weight, part, total)
    if HAS_SHARED:
        total = total + tl.load(shared + row * WIDTH + columns, mask=exists, other=0.0)
    return total


def compile_cases() -> tuple[CompileCase, ...]:
    return (
        CompileCase(
            name="moe_combine 4096 top 8",
            kernel=_moe_combine,
            types={
                "outputs": "*fp32",
                "weights": "*fp32",
                "shared": "*fp32",
                "residual": "*fp32",
                "out": "*fp32",
            },
            constexprs={
                "WIDTH": 4096,
                "COLUMNS": COLUMNS,
                "TOP_K": 8,
                "PADDED_K": 8,
                "HAS_SHARED": True,
                "HAS_RESIDUAL": True,
            },
            max_registers=64,
            has_wide_loads=True,
            required=("FFMA",),
        ),
    )
