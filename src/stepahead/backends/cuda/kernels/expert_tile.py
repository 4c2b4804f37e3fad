"""What the expert kernels share: the expert and the pairs of a program, and a tile of outputs of that expert for them.

Among few rows there is a program for each pair of a row and a slot, and of an expert's pairs the first one leads: it
takes all of them, and the others have nothing to do. So an expert's weights are read once, and nothing is sorted. Among
many rows the pairs have been grouped before (moe_blocked).

A shared expert, which every row goes to, may ride along as further programs in front of these. Its results have the
numbers behind the pairs, one a row.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from stepahead.backends.base import SharedExpert
from stepahead.backends.cuda.configs import FEW_ROWS, ExpertConfig, expert_config
from stepahead.backends.cuda.formats.format import FORMATS
from stepahead.backends.cuda.kernels.half_rows import half_rows
from stepahead.backends.cuda.kernels.moe_blocked import GroupedPairs, group_pairs
from stepahead.backends.cuda.kernels.weight_tile import add_block_product, first_record
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.routing import Routing
from stepahead.backends.cuda.rows import Rows
from stepahead.gguf.quants import QuantType

STEP = tl.constexpr(32)  # inputs of plain weights that are multiplied at a time


def rides_along(shared: SharedExpert, gate: CudaMatrix, up: CudaMatrix, down: CudaMatrix) -> bool:
    """Whether the routed experts are of the same types and shapes."""
    routed = [(matrix.type, matrix.shape[1:]) for matrix in (gate, up, down)]
    return routed == [(matrix.type, matrix.shape) for matrix in (shared.gate, shared.up, shared.down)]


@dataclass(frozen=True, slots=True, eq=False)
class ExpertTiles:
    """Programs along the second axis of the grid: which expert multiplies which rows."""

    routing: Routing
    grouped: GroupedPairs | None  # None: FEW_ROWS at most
    has_shared: bool = False

    @classmethod
    def of(cls, launch: Launcher, routing: Routing, *matrices: CudaMatrix, has_shared: bool = False) -> "ExpertTiles":
        """matrices: (experts, out, in), all that are multiplied in them."""
        if routing.num_rows <= FEW_ROWS:
            return cls(routing, None, has_shared)
        rows = None if all(matrix.has_wide_tiles for matrix in matrices) else FEW_ROWS
        return cls(routing, group_pairs(launch, routing, matrices[0].shape[0], rows), has_shared)

    @property
    def num_results(self) -> int:
        """Rows of what the kernels give: one for each pair, then those of the shared expert."""
        return self.routing.num_pairs + (self.routing.num_rows if self.has_shared else 0)

    @property
    def rows(self) -> int:
        """Of a tile."""
        return FEW_ROWS if self.grouped is None else self.grouped.tile_rows

    @property
    def num_shared(self) -> int:
        return -(-self.routing.num_rows // self.rows) if self.has_shared else 0

    @property
    def num_programs(self) -> int:
        return self.num_shared + (self.routing.num_pairs if self.grouped is None else self.grouped.num_tiles)

    @property
    def arguments(self) -> tuple[torch.Tensor, torch.Tensor, int, int, int]:
        """experts, tile_pairs, num_shared, num_pairs, num_rows."""
        routing, grouped = self.routing, self.grouped
        experts = (routing.ids, routing.ids) if grouped is None else (grouped.experts, grouped.pairs)
        return *experts, self.num_shared, routing.num_pairs, routing.num_rows

    def options(self, num_out: int) -> dict[str, int]:
        """num_out: rows of weights, those of two matrices if stacked."""
        config = expert_config(self.rows, num_out, self.num_programs)
        return {
            "num_warps": config.num_warps,
            "num_stages": config.num_stages,
            "HAS_SHARED": self.has_shared,
            "IS_GROUPED": self.grouped is not None,
            "PADDED_K": self.routing.padded_top_k,
            "BLOCK": config.outs,
            "ROWS": self.rows,
        }


def row_arguments(launch: Launcher, x: Rows, *matrices: CudaMatrix) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x, halves, exponents, as the matrices need them."""
    if all(matrix.format is None for matrix in matrices):
        return x.values, x.values, x.values
    if x.half is None:
        x.half = half_rows(launch, x.values)
    assert x.half.values.numel() < 2**31, "places in x are 32-bit integers"
    return x.values, x.half.values, x.half.exponents


@triton.jit
def expert_and_results(
    experts, tile_pairs, num_shared, num_pairs, num_rows,
    HAS_SHARED: tl.constexpr, IS_GROUPED: tl.constexpr, PADDED_K: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The program's expert, -1 if there is nothing to do; the numbers of its results and their rows of x (ROWS,), and
    which of them there are. experts: of all pairs, or where these are grouped, of tiles."""
    if HAS_SHARED:
        place = tl.program_id(1) - num_shared
        if place < 0:
            expert = 0
            rows = (place + num_shared) * ROWS + tl.arange(0, ROWS)
            wanted = rows < num_rows
            results = num_pairs + rows
        else:
            expert, results = _expert_and_pairs(experts, tile_pairs, place, IS_GROUPED, PADDED_K, ROWS)
            wanted = results >= 0
            rows = results // PADDED_K
    else:
        expert, results = _expert_and_pairs(experts, tile_pairs, tl.program_id(1), IS_GROUPED, PADDED_K, ROWS)
        wanted = results >= 0
        rows = results // PADDED_K
    return expert, results, tl.where(wanted, rows, 0), wanted


@triton.jit
def _expert_and_pairs(experts, tile_pairs, place, IS_GROUPED: tl.constexpr, PADDED_K: tl.constexpr, ROWS: tl.constexpr):
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
def matrix_of_program(routed, shared, num_shared, HAS_SHARED: tl.constexpr):
    """A pointer, 16-byte aligned as both are: by their distance, as the compiler knows less of a choice of pointers."""
    if HAS_SHARED:
        is_shared = tl.program_id(1) < num_shared
        routed += tl.multiple_of(tl.where(is_shared, _elements_between(routed, shared), 0), 4)
    return routed


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


NO_SPILLS = ("sm_90", "gfx942")
SOME_SPILLS = ("sm_80", "sm_120")
"""Compiled for them, tiles of 64 rows and programs of a shared expert keep up to 32 bytes a thread in memory."""


def case_options(config: ExpertConfig, rows: int, has_shared: bool) -> dict[str, int]:
    """Constexprs of a compile case with tiles of so many rows, the smaller ones without grouping."""
    of_tiles = {"BLOCK": config.outs, "ROWS": rows, "PADDED_K": 8}
    return of_tiles | {"HAS_SHARED": has_shared, "IS_GROUPED": rows != FEW_ROWS}


def tile_types(type: QuantType, *names: str, x: str) -> dict[str, str]:
    """Of the pointers of a compile case: matrices of `type` and last the result are named."""
    weights = "*i32" if type in FORMATS else "*fp16"
    rows = {x: "*fp32", "halves": "*fp16", "exponents": "*fp32", "experts": "*i32", "tile_pairs": "*i32"}
    rows |= dict.fromkeys(("num_shared", "num_pairs", "num_rows"), "i32")
    return rows | dict.fromkeys(names[:-1], weights) | {names[-1]: "*fp32"}
