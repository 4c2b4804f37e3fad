"""What the expert kernels share: the expert and the pairs of a program, and a tile of outputs of that expert for them.

Among few rows there is a program for each pair of a row and a slot, and of an expert's pairs the first one leads: it
takes all of them, and the others have nothing to do. So an expert's weights are read once, and nothing is sorted. Among
many rows the pairs have been grouped before (moe_blocked).
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.formats.format import FORMATS
from stepahead.backends.cuda.kernels.half_rows import half_rows
from stepahead.backends.cuda.kernels.moe_blocked import FEW_ROWS, MANY_ROWS, GroupedPairs
from stepahead.backends.cuda.kernels.weight_tile import add_block_product, first_record
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.routing import Routing
from stepahead.backends.cuda.rows import Rows
from stepahead.gguf.quants import QuantType

STEP = tl.constexpr(32)  # inputs of plain weights that are multiplied at a time


@dataclass(frozen=True, slots=True)
class TileSize:
    """block: rows of weights in a tile, 16 a warp, as with more warps some would repeat others' work."""

    block: int
    num_warps: int
    num_stages: int = 1


# By rows in a tile. Either way four warps multiply 64 rows of weights: on sm_90 by the same instruction.
TILE_SIZES = {FEW_ROWS: TileSize(64, 4), MANY_ROWS: TileSize(128, 8)}


def tile_options(routing: Routing, grouped: GroupedPairs | None) -> dict[str, int]:
    """What either kernel is launched with."""
    assert grouped is not None or routing.num_rows <= FEW_ROWS
    rows = FEW_ROWS if grouped is None else grouped.tile_rows
    size = TILE_SIZES[rows]
    return {
        "num_warps": size.num_warps,
        "num_stages": size.num_stages,
        "PADDED_K": routing.padded_top_k,
        "IS_GROUPED": grouped is not None,
        "BLOCK": size.block,
        "ROWS": rows,
    }


def tile_arguments(routing: Routing, grouped: GroupedPairs | None) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Programs along the second axis of the grid; experts and tile_pairs."""
    if grouped is None:
        return routing.num_pairs, routing.ids, routing.ids
    return grouped.num_tiles, grouped.experts, grouped.pairs


def row_arguments(launch: Launcher, x: Rows, *matrices: CudaMatrix) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, halves, exponents, as the matrices need them."""
    if all(matrix.format is None for matrix in matrices):
        return x.values, x.values, x.values
    if x.half is None:
        x.half = half_rows(launch, x.values)
    assert x.half.values.numel() < 2**31, "places in x are 32-bit integers"
    return x.values, x.half.values, x.half.exponents


@triton.jit
def expert_and_pairs(experts, tile_pairs, ROWS: tl.constexpr, PADDED_K: tl.constexpr, IS_GROUPED: tl.constexpr):
    """experts: of all pairs, or where these are grouped, of tiles. An expert of -1 says that there is nothing to do;
    pairs: (ROWS,), -1: none."""
    place = tl.program_id(1)
    if IS_GROUPED:
        expert = tl.load(experts + place)
        pairs = tl.load(tile_pairs + place * ROWS + tl.arange(0, ROWS))
    else:
        chosen = tl.load(experts + place)
        numbers = tl.arange(0, ROWS)[:, None] * PADDED_K + tl.arange(0, PADDED_K)[None, :]
        pairs = tl.max(tl.where(tl.load(experts + numbers) == chosen, numbers, -1), axis=1)
        first = tl.min(tl.where(pairs >= 0, pairs, ROWS * PADDED_K), axis=0)
        expert = tl.where(first == place, chosen, -1)
    return expert, pairs


@triton.jit
def expert_product(
    weights,  # records of FORMAT, or where that is None, the weights row after row
    other,  # a second matrix of the same kind, if stacked
    expert,
    first_tile,  # 16 outputs each
    x,  # rows of float32, for plain weights
    halves,  # values and exponents of HalfRows, for packed ones
    exponents,
    rows,
    wanted,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    FORMAT: tl.constexpr,
    IS_STACKED: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """(BLOCK, ROWS) float32: outputs from `first_tile` on, for the wanted rows.

    Stacked: 16 outputs of `weights`, the same 16 of `other`, and so on: two products as one that is twice as long.
    """
    lanes = tl.arange(0, BLOCK)
    if IS_STACKED:
        tiles = lanes // 32
        away = (lanes // 16 % 2) * _elements_between(weights, other)
    else:
        tiles = lanes // 16
        away = 0
    acc = tl.zeros((BLOCK, ROWS), tl.float32)
    if FORMAT is None:
        outs = tl.minimum((first_tile + tiles) * 16 + lanes % 16, OUT - 1)
        starts = outs.to(tl.int64) * IN + away
        weights += expert.to(tl.int64) * (OUT * IN)
        for start in range(0, IN, STEP):
            inputs = start + tl.arange(0, STEP)
            w = tl.load(weights + starts[:, None] + inputs[None, :], mask=(inputs < IN)[None, :], other=0.0)
            mask = wanted[None, :] & (inputs < IN)[:, None]
            part = tl.load(x + rows.to(tl.int64)[None, :] * IN + inputs[:, None], mask=mask, other=0.0)
            acc = tl.dot(w.to(tl.float32), part, acc, input_precision="ieee")
    else:
        TILES: tl.constexpr = (OUT + 15) // 16
        BLOCKS: tl.constexpr = (IN + 255) // 256
        WORDS: tl.constexpr = FORMAT.record_words
        offsets = tl.minimum(tiles, TILES - 1 - first_tile) * (BLOCKS * WORDS) + away
        record = first_record(weights, expert * TILES + first_tile, BLOCKS, FORMAT)
        places = rows * (BLOCKS * 288)
        means = halves + BLOCKS * 256
        for _ in range(BLOCKS):
            acc = add_block_product(acc, record, offsets, halves, means, places, wanted, FORMAT, BLOCK, ROWS)
            record += WORDS
            halves += 256
            means += 32
        acc *= tl.load(exponents + rows, mask=wanted, other=0.0)[None, :]
    return acc


@triton.jit
def _elements_between(a, b):
    """From pointer a to b, both 16-byte aligned."""
    NBYTES: tl.constexpr = a.dtype.element_ty.primitive_bitwidth // 8
    return tl.multiple_of((b.to(tl.int64) - a.to(tl.int64)) // NBYTES, 16 // NBYTES)


@triton.jit
def unstacked(acc, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """The two (BLOCK / 2, ROWS) of a stacked product."""
    by_matrix = tl.permute(tl.reshape(acc, (BLOCK // 32, 2, 16, ROWS)), (0, 2, 3, 1))
    a, b = tl.split(by_matrix)
    return tl.reshape(a, (BLOCK // 2, ROWS)), tl.reshape(b, (BLOCK // 2, ROWS))


def case_options(rows: int) -> dict[str, int]:
    """Constexprs of a compile case with tiles of so many rows, the smaller ones without grouping."""
    return {"PADDED_K": 8, "IS_GROUPED": rows != FEW_ROWS, "BLOCK": TILE_SIZES[rows].block, "ROWS": rows}


def tile_types(type: QuantType, *names: str, x: str) -> dict[str, str]:
    """Of the pointers of a compile case: matrices of `type` and last the result are named."""
    weights = "*i32" if type in FORMATS else "*fp16"
    rows = {x: "*fp32", "halves": "*fp16", "exponents": "*fp32", "experts": "*i32", "tile_pairs": "*i32"}
    return rows | dict.fromkeys(names[:-1], weights) | {names[-1]: "*fp32"}
