"""swiglu of the gate and up products of routed experts: an expert's weights are read once for all of its rows."""

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
    unstacked,
)
from stepahead.backends.cuda.kernels.moe_blocked import FEW_ROWS, MANY_ROWS, GroupedPairs
from stepahead.backends.cuda.kernels.swiglu import MIN_LIMIT, gated
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.routing import Routing
from stepahead.backends.cuda.rows import Rows
from stepahead.gguf.quants import QuantType


def moe_gate_up(
    launch: Launcher,
    x: Rows,
    routing: Routing,
    grouped: GroupedPairs | None,  # None: FEW_ROWS at most
    gate: CudaMatrix,  # (experts, width, in)
    up: CudaMatrix,
    limit: float,
) -> Rows:
    """(pairs, width), a row by the number of its pair; those of pairs without an expert hold anything."""
    width, num_in = gate.shape[1:]
    hidden = torch.empty((routing.num_pairs, width), dtype=torch.float32, device=gate.data.device)
    programs, *experts = tile_arguments(routing, grouped)
    options = tile_options(routing, grouped)
    is_stacked = gate.type == up.type
    launch(
        _moe_gate_up,
        (triton.cdiv(width, options["BLOCK"] // (2 if is_stacked else 1)), programs),
        *row_arguments(launch, x, gate, up),
        *experts,
        gate.data,
        up.data,
        hidden,
        limit,
        IN=num_in,
        OUT=width,
        GATE=gate.format,
        UP=up.format,
        IS_STACKED=is_stacked,
        HAS_LIMIT=limit > MIN_LIMIT,
        **options,
    )
    return Rows(hidden)


@triton.jit
def _moe_gate_up(
    x,
    halves,
    exponents,
    experts,
    tile_pairs,
    gate,
    up,
    hidden,
    limit,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    GATE: tl.constexpr,
    UP: tl.constexpr,
    IS_STACKED: tl.constexpr,
    HAS_LIMIT: tl.constexpr,
    PADDED_K: tl.constexpr,
    IS_GROUPED: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    expert, pairs = expert_and_pairs(experts, tile_pairs, ROWS, PADDED_K, IS_GROUPED)
    if expert < 0:
        return
    wanted = pairs >= 0
    rows = tl.where(wanted, pairs // PADDED_K, 0)
    OUTS: tl.constexpr = BLOCK // 2 if IS_STACKED else BLOCK
    tile = tl.program_id(0) * (OUTS // 16)
    g = expert_product(
        gate, up, expert, tile, x, halves, exponents, rows, wanted, IN, OUT, GATE, IS_STACKED, BLOCK, ROWS
    )
    if IS_STACKED:
        g, u = unstacked(g, BLOCK, ROWS)
    else:
        u = expert_product(up, up, expert, tile, x, halves, exponents, rows, wanted, IN, OUT, UP, False, BLOCK, ROWS)
    outs = tile * 16 + tl.arange(0, OUTS)
    places = pairs.to(tl.int64)[None, :] * OUT + outs[:, None]
    tl.store(hidden + places, gated(g, u, limit, HAS_LIMIT), mask=(outs < OUT)[:, None] & wanted[None, :])


def compile_cases() -> tuple[CompileCase, ...]:
    """A step of the loop takes 256 inputs of BLOCK rows of weights, half of them of the gate: a unit is a weight."""
    return tuple(
        CompileCase(
            name=f"moe_gate_up {type.name} {rows} rows",
            kernel=_moe_gate_up,
            types=tile_types(type, "gate", "up", "hidden", x="x") | {"limit": "fp32"},
            constexprs=case_options(rows)
            | {"IN": 4096, "OUT": 1280, "IS_STACKED": True, "HAS_LIMIT": True}
            | dict.fromkeys(("GATE", "UP"), FORMATS.get(type)),
            num_warps=TILE_SIZES[rows].num_warps,
            targets=targets,
            uses_tensor_cores=type in FORMATS,
            has_wide_loads=True,
            forbidden=("I2F",),
            max_lane_operations=None if type not in FORMATS else (limit, 256 * TILE_SIZES[rows].block),
        )
        for type, rows, limit, targets in (
            (QuantType.Q4_K, FEW_ROWS, 4.5, TARGETS),
            (QuantType.Q4_K, MANY_ROWS, 5.0, TARGETS),
            (QuantType.Q6_K, FEW_ROWS, 5.0, ("sm_90",)),
            (QuantType.Q8_0, FEW_ROWS, 4.6, ("sm_90",)),
            (QuantType.F16, FEW_ROWS, 0.0, ("sm_90",)),
        )
    )
