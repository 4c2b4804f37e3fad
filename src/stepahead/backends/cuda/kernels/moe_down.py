"""The down product of routed experts, by pair: an expert's weights are read once for all of its rows."""

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
)
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.rows import Rows
from stepahead.gguf.quants import QuantType


def moe_down(
    launch: Launcher,
    hidden: Rows,  # of moe_gate_up
    tiles: ExpertTiles,
    down: CudaMatrix,  # (experts, width, in)
    shared: SharedExpert | None = None,
) -> torch.Tensor:
    """(results, width) float32; rows of pairs without an expert hold anything."""
    assert (shared is not None) == tiles.has_shared
    width, num_in = down.shape[1:]
    options = tiles.options(width)
    out = torch.empty((tiles.num_results, width), dtype=torch.float32, device=down.data.device)
    launch(
        _moe_down,
        (triton.cdiv(width, options["BLOCK"]), tiles.num_programs),
        *row_arguments(launch, hidden, down),
        *tiles.arguments,
        down.data,
        shared.down.data if shared else down.data,
        out,
        IN=num_in,
        OUT=width,
        DOWN=down.format,
        **options,
    )
    return out


@triton.jit(do_not_specialize=["num_shared", "num_pairs", "num_rows"])
def _moe_down(
    hidden,
    halves,
    exponents,
    experts,
    tile_pairs,
    num_shared,
    num_pairs,
    num_rows,
    down,
    shared_down,
    out,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    DOWN: tl.constexpr,
    HAS_SHARED: tl.constexpr,
    IS_GROUPED: tl.constexpr,
    PADDED_K: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    expert, results, _, wanted = expert_and_results(
        experts, tile_pairs, num_shared, num_pairs, num_rows, HAS_SHARED, IS_GROUPED, PADDED_K, ROWS
    )
    if expert < 0:
        return
    rows = tl.where(wanted, results, 0)
    weights = matrix_of_program(down, shared_down, num_shared, HAS_SHARED)
    tile = tl.program_id(0) * (BLOCK // 16)
    y = expert_product(
        weights, weights, expert, tile, hidden, halves, exponents, rows, wanted, IN, OUT, DOWN, False, BLOCK, ROWS
    )
    outs = tile * 16 + tl.arange(0, BLOCK)
    places = results.to(tl.int64)[None, :] * OUT + outs[:, None]
    tl.store(out + places, y, mask=(outs < OUT)[:, None] & wanted[None, :])


def compile_cases() -> tuple[CompileCase, ...]:
    """A step of the loop takes 256 inputs of BLOCK rows of weights: a unit is a weight."""
    return tuple(
        CompileCase(
            name=f"moe_down {type.name} {rows} rows, {config.num_stages} stages{' and shared' if has_shared else ''}"
            f"{' with spills' if targets == SOME_SPILLS else ''}",
            kernel=_moe_down,
            types=tile_types(type, "down", "shared_down", "out", x="hidden"),
            constexprs=case_options(config, rows, has_shared) | {"IN": 1280, "OUT": 4096, "DOWN": FORMATS[type]},
            num_warps=config.num_warps,
            num_stages=config.num_stages,
            targets=targets,
            max_stack_nbytes=32 if targets == SOME_SPILLS else 0,
            uses_tensor_cores=True,
            has_wide_loads=True,
            forbidden=("I2F",),
            max_lane_operations=(limit, 256 * config.outs),
        )
        for type, rows, has_shared, num_tiles, limit, targets in (
            (QuantType.Q4_K, FEW_ROWS, False, 288, 4.5, TARGETS),
            (QuantType.Q4_K, FEW_ROWS, False, 4, 5.0, ("sm_90",)),
            (QuantType.Q4_K, MANY_ROWS, False, 288, 5.0, ("sm_90",)),
            (QuantType.Q4_K, FEW_ROWS, True, 288, 4.5, NO_SPILLS),
            (QuantType.Q4_K, FEW_ROWS, True, 288, 4.5, SOME_SPILLS),
            (QuantType.Q6_K, FEW_ROWS, False, 288, 5.0, ("sm_90",)),
        )
        for config in (expert_config(rows, 4096, num_tiles),)
    )
