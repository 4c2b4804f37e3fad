"""swiglu of the gate and up products of routed experts: an expert's weights are read once for all of its rows."""

import math

import torch
import triton
import triton.language as tl

from stepahead.backends.base import SharedExpert
from stepahead.backends.cuda.compile_case import TARGETS, CompileCase
from stepahead.backends.cuda.configs import FEW_ROWS, MANY_ROWS, expert_config
from stepahead.backends.cuda.formats.format import FORMATS
from stepahead.backends.cuda.kernels.expert_tile import (
    NO_SPILLS,
    SOME_SPILLS,
    ExpertTiles,
    case_options,
    expert_and_results,
    expert_product,
    matrix_of_program,
    row_arguments,
    tile_types,
    unstacked,
)
from stepahead.backends.cuda.kernels.swiglu import MIN_LIMIT, gated
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.rows import Rows
from stepahead.gguf.quants import QuantType


def moe_gate_up(
    launch: Launcher,
    x: Rows,
    tiles: ExpertTiles,
    gate: CudaMatrix,  # (experts, width, in)
    up: CudaMatrix,
    limit: float,
    shared: SharedExpert | None = None,
) -> Rows:
    """(results, width), a row by the number of its pair; those of pairs without an expert hold anything."""
    assert (shared is not None) == tiles.has_shared
    width, num_in = gate.shape[1:]
    hidden = torch.empty((tiles.num_results, width), dtype=torch.float32, device=gate.data.device)
    is_stacked = gate.type == up.type
    num_out = 2 * width if is_stacked else width
    options = tiles.options(num_out)
    limits = [value if value > MIN_LIMIT else math.inf for value in (limit, shared.limit if shared else limit)]
    launch(
        _moe_gate_up,
        (triton.cdiv(num_out, options["BLOCK"]), tiles.num_programs),
        *row_arguments(launch, x, gate, up),
        *tiles.arguments,
        gate.data,
        up.data,
        shared.gate.data if shared else gate.data,
        shared.up.data if shared else up.data,
        hidden,
        *limits,
        IN=num_in,
        OUT=width,
        GATE=gate.format,
        UP=up.format,
        IS_STACKED=is_stacked,
        HAS_LIMIT=min(limits) < math.inf,
        **options,
    )
    return Rows(hidden)


@triton.jit(do_not_specialize=["num_shared", "num_pairs", "num_rows"])
def _moe_gate_up(
    x,
    halves,
    exponents,
    experts,
    tile_pairs,
    num_shared,
    num_pairs,
    num_rows,
    gate,
    up,
    shared_gate,
    shared_up,
    hidden,
    limit,
    shared_limit,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    GATE: tl.constexpr,
    UP: tl.constexpr,
    IS_STACKED: tl.constexpr,
    HAS_LIMIT: tl.constexpr,
    HAS_SHARED: tl.constexpr,
    IS_GROUPED: tl.constexpr,
    PADDED_K: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    expert, results, rows, wanted = expert_and_results(
        experts, tile_pairs, num_shared, num_pairs, num_rows, HAS_SHARED, IS_GROUPED, PADDED_K, ROWS
    )
    if expert < 0:
        return
    gates = matrix_of_program(gate, shared_gate, num_shared, HAS_SHARED)
    ups = matrix_of_program(up, shared_up, num_shared, HAS_SHARED)
    OUTS: tl.constexpr = BLOCK // 2 if IS_STACKED else BLOCK
    tile = tl.program_id(0) * (OUTS // 16)
    g = expert_product(
        gates, ups, expert, tile, x, halves, exponents, rows, wanted, IN, OUT, GATE, IS_STACKED, BLOCK, ROWS
    )
    if IS_STACKED:
        g, u = unstacked(g, BLOCK, ROWS)
    else:
        u = expert_product(ups, ups, expert, tile, x, halves, exponents, rows, wanted, IN, OUT, UP, False, BLOCK, ROWS)
    outs = tile * 16 + tl.arange(0, OUTS)
    places = results.to(tl.int64)[None, :] * OUT + outs[:, None]
    if HAS_SHARED:
        limit = tl.where(tl.program_id(1) < num_shared, shared_limit, limit)
    h = gated(g, u, limit, HAS_LIMIT)
    tl.store(hidden + places, h, mask=(outs < OUT)[:, None] & wanted[None, :])


def compile_cases() -> tuple[CompileCase, ...]:
    """A step of the loop takes 256 inputs of BLOCK rows of weights, half of them of the gate: a unit is a weight."""
    return tuple(
        CompileCase(
            name=f"moe_gate_up {type.name} {rows} rows, {config.num_stages} stages{' and shared' if has_shared else ''}"
            f"{' with spills' if targets == SOME_SPILLS else ''}",
            kernel=_moe_gate_up,
            types=tile_types(type, "gate", "up", "shared_gate", "shared_up", "hidden", x="x")
            | {"limit": "fp32", "shared_limit": "fp32"},
            constexprs=case_options(config, rows, has_shared)
            | {"IN": 4096, "OUT": 1280, "IS_STACKED": True, "HAS_LIMIT": True}
            | dict.fromkeys(("GATE", "UP"), FORMATS.get(type)),
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            targets=targets,
            max_stack_nbytes=32 if targets == SOME_SPILLS else 0,
            uses_tensor_cores=type in FORMATS,
            has_wide_loads=True,
            forbidden=("I2F",),
            max_lane_operations=None if type not in FORMATS else (limit, 256 * config.outs),
        )
        for type, rows, has_shared, num_tiles, limit, targets in (
            (QuantType.Q4_K, FEW_ROWS, False, 288, 4.5, TARGETS),
            (QuantType.Q4_K, FEW_ROWS, False, 4, 5.0, ("sm_90",)),
            (QuantType.Q4_K, MANY_ROWS, False, 288, 5.0, NO_SPILLS),
            (QuantType.Q4_K, MANY_ROWS, True, 288, 5.0, SOME_SPILLS),
            (QuantType.Q4_K, FEW_ROWS, True, 288, 4.5, NO_SPILLS),
            (QuantType.Q4_K, FEW_ROWS, True, 288, 4.5, SOME_SPILLS),
            (QuantType.Q6_K, FEW_ROWS, False, 288, 5.0, ("sm_90",)),
            (QuantType.Q8_0, FEW_ROWS, False, 288, 4.6, ("sm_90",)),
            (QuantType.F16, FEW_ROWS, False, 288, 0.0, ("sm_90",)),
        )
        for config in (expert_config(rows, 2560, num_tiles),)
    )
