"""The down product of routed experts, by pair: an expert's weights are read once for all of its rows."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import TARGETS, CompileCase
from stepahead.backends.cuda.formats.format import FORMATS
from stepahead.backends.cuda.kernels.expert_tile import (
    TILE_SIZES,
    case_options,
    expert_and_pairs,
    expert_product,
    row_arguments,
    tile_arguments,
    tile_options,
    tile_types,
)
from stepahead.backends.cuda.kernels.moe_blocked import FEW_ROWS, MANY_ROWS, GroupedPairs
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.routing import Routing
from stepahead.backends.cuda.rows import Rows
from stepahead.gguf.quants import QuantType


def moe_down(
    launch: Launcher,
    hidden: Rows,  # of moe_gate_up
    routing: Routing,
    grouped: GroupedPairs | None,
    down: CudaMatrix,  # (experts, width, in)
) -> torch.Tensor:
    """(pairs, width) float32; rows of pairs without an expert hold anything."""
    width, num_in = down.shape[1:]
    out = torch.empty((routing.num_pairs, width), dtype=torch.float32, device=down.data.device)
    programs, *experts = tile_arguments(routing, grouped)
    options = tile_options(routing, grouped)
    launch(
        _moe_down,
        (triton.cdiv(width, options["BLOCK"]), programs),
        *row_arguments(launch, hidden, down),
        *experts,
        down.data,
        out,
        IN=num_in,
        OUT=width,
        DOWN=down.format,
        **options,
    )
    return out


@triton.jit
def _moe_down(
    hidden,
    halves,
    exponents,
    experts,
    tile_pairs,
    down,
    out,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    DOWN: tl.constexpr,
    PADDED_K: tl.constexpr,
    IS_GROUPED: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    expert, pairs = expert_and_pairs(experts, tile_pairs, ROWS, PADDED_K, IS_GROUPED)
    if expert < 0:
        return
    wanted = pairs >= 0
    rows = tl.where(wanted, pairs, 0)
    tile = tl.program_id(0) * (BLOCK // 16)
    y = expert_product(
        down, down, expert, tile, hidden, halves, exponents, rows, wanted, IN, OUT, DOWN, False, BLOCK, ROWS
    )
    outs = tile * 16 + tl.arange(0, BLOCK)
    places = pairs.to(tl.int64)[None, :] * OUT + outs[:, None]
    tl.store(out + places, y, mask=(outs < OUT)[:, None] & wanted[None, :])


def compile_cases() -> tuple[CompileCase, ...]:
    """A step of the loop takes 256 inputs of BLOCK rows of weights: a unit is a weight."""
    return tuple(
        CompileCase(
            name=f"moe_down {type.name} {rows} rows",
            kernel=_moe_down,
            types=tile_types(type, "down", "out", x="hidden"),
            constexprs=case_options(rows) | {"IN": 1280, "OUT": 4096, "DOWN": FORMATS[type]},
            num_warps=TILE_SIZES[rows].num_warps,
            targets=targets,
            uses_tensor_cores=True,
            has_wide_loads=True,
            forbidden=("I2F",),
            max_lane_operations=(limit, 256 * TILE_SIZES[rows].block),
        )
        for type, rows, limit, targets in (
            (QuantType.Q4_K, FEW_ROWS, 4.5, TARGETS),
            (QuantType.Q4_K, MANY_ROWS, 5.0, ("sm_90",)),
            (QuantType.Q6_K, FEW_ROWS, 5.0, ("sm_90",)),
        )
    )
