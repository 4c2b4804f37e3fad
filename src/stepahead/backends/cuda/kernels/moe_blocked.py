"""Groups the pairs of many rows by expert, in tiles that the expert kernels take: two launches, no host, no atomics.

The places of a tile belong to one expert. How many tiles there are, only the device knows; there is room for as many as
there could be, and those that are not needed are empty.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.configs import FEW_ROWS, MANY_ROWS
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.routing import Routing, power_of_two

MANY_PAIRS = 8
"""An expert's share of the pairs from which on its tiles are large ones."""
PAIRS = 2048  # that a program looks at in one turn; what is padded has no expert, and so needs no mask


@dataclass(frozen=True, slots=True, eq=False)
class GroupedPairs:
    """experts: (tiles,) int32, -1 for an empty tile; pairs: (tiles, tile rows) int32, ascending, then -1."""

    experts: torch.Tensor
    pairs: torch.Tensor

    @property
    def num_tiles(self) -> int:
        return int(self.experts.shape[0])

    @property
    def tile_rows(self) -> int:
        return int(self.pairs.shape[1])


def tile_rows(routing: Routing, num_experts: int) -> int:
    """Weights are what takes time until experts have several rows each: then, too, what is not used of a tile."""
    return MANY_ROWS if routing.num_rows * routing.top_k > MANY_PAIRS * num_experts else FEW_ROWS


def num_tiles(num_pairs: int, num_experts: int, tile_rows: int) -> int:
    """Upper bound: every expert that is chosen may leave one tile not full."""
    return num_pairs // tile_rows + min(num_experts, num_pairs)


def group_pairs(launch: Launcher, routing: Routing, num_experts: int, rows: int | None = None) -> GroupedPairs:
    """rows: of a tile, FEW_ROWS or MANY_ROWS; None: what suits."""
    device = routing.ids.device
    rows = rows or tile_rows(routing, num_experts)
    tiles = num_tiles(routing.num_rows * routing.top_k, num_experts, rows)
    counts = torch.empty(num_experts, dtype=torch.int32, device=device)
    experts = torch.empty(tiles, dtype=torch.int32, device=device)
    pairs = torch.empty((tiles, rows), dtype=torch.int32, device=device)
    block = min(PAIRS, routing.ids.numel())
    launch(_count_pairs, (num_experts,), routing.ids, counts, routing.num_pairs, PAIRS=block)
    launch(
        _scatter_pairs,
        (num_experts + 1,),
        routing.ids,
        counts,
        experts,
        pairs,
        routing.num_pairs,
        tiles,
        NUM_EXPERTS=num_experts,
        EXPERTS=power_of_two(num_experts),
        PAIRS=block,
        TILE_ROWS=rows,
    )
    return GroupedPairs(experts, pairs)


@triton.jit(do_not_specialize=["num_pairs"])
def _count_pairs(ids, counts, num_pairs, PAIRS: tl.constexpr):
    expert = tl.program_id(0)
    total = tl.zeros((PAIRS,), tl.int32)
    for start in range(0, num_pairs, PAIRS):
        total += (tl.load(ids + start + tl.arange(0, PAIRS)) == expert).to(tl.int32)
    tl.store(counts + expert, tl.sum(total, axis=0))


@triton.jit(do_not_specialize=["num_pairs", "num_tiles"])
def _scatter_pairs(
    ids,
    counts,
    experts,
    pairs,
    num_pairs,
    num_tiles,
    NUM_EXPERTS: tl.constexpr,
    EXPERTS: tl.constexpr,
    PAIRS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
):
    """A program an expert fills that expert's tiles, and one more marks those that are left as empty."""
    expert = tl.program_id(0)
    others = tl.arange(0, EXPERTS)
    count = tl.load(counts + others, mask=others < NUM_EXPERTS, other=0)
    first = tl.sum(tl.where(others < expert, (count + TILE_ROWS - 1) // TILE_ROWS, 0), axis=0)
    if expert == NUM_EXPERTS:
        for start in range(first, num_tiles, EXPERTS):
            tl.store(experts + start + others, tl.full((EXPERTS,), -1, tl.int32), mask=start + others < num_tiles)
        return
    mine = tl.load(counts + expert)
    places = tl.arange(0, TILE_ROWS)
    for tile in range((mine + TILE_ROWS - 1) // TILE_ROWS):
        tl.store(experts + first + tile, expert)
        place = tile * TILE_ROWS + places
        tl.store(pairs + first * TILE_ROWS + place, tl.full((TILE_ROWS,), -1, tl.int32), mask=place >= mine)
    found = 0
    for start in range(0, num_pairs, PAIRS):
        numbers = start + tl.arange(0, PAIRS)
        same = tl.load(ids + numbers) == expert
        place = found + tl.cumsum(same.to(tl.int32), axis=0) - 1
        tl.store(pairs + first * TILE_ROWS + place, numbers, mask=same)
        found += tl.sum(same.to(tl.int32), axis=0)


def compile_cases() -> tuple[CompileCase, ...]:
    return (
        CompileCase(
            name="moe_blocked count",
            kernel=_count_pairs,
            types={"ids": "*i32", "counts": "*i32", "num_pairs": "i32"},
            constexprs={"PAIRS": PAIRS},
            max_registers=64,
            has_wide_loads=True,
        ),
        CompileCase(
            name="moe_blocked scatter",
            kernel=_scatter_pairs,
            types={
                "ids": "*i32",
                "counts": "*i32",
                "experts": "*i32",
                "pairs": "*i32",
                "num_pairs": "i32",
                "num_tiles": "i32",
            },
            constexprs={"NUM_EXPERTS": 288, "EXPERTS": 512, "PAIRS": PAIRS, "TILE_ROWS": MANY_ROWS},
            max_registers=96,
        ),
    )
