"""The column of a row's largest value: of tiles first, then of the tiles."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.kernels.functions import is_nan
from stepahead.backends.cuda.launch import Launcher

COLUMNS = 2048  # of a tile


def argmax(launch: Launcher, x: torch.Tensor) -> torch.Tensor:
    """(num_rows,) int32; the lowest column wins ties, and NaN counts as -Inf."""
    num_rows, width = x.shape
    tiles = triton.cdiv(width, COLUMNS)
    values = torch.empty((num_rows, tiles), dtype=torch.float32, device=x.device)
    columns = torch.empty((num_rows, tiles), dtype=torch.int32, device=x.device)
    launch(_of_tiles, (tiles, num_rows), x, values, columns, WIDTH=width, COLUMNS=COLUMNS)
    out = torch.empty((num_rows,), dtype=torch.int32, device=x.device)
    block = triton.next_power_of_2(tiles)
    launch(_of_rows, (num_rows,), values, columns, out, num_warps=1, TILES=tiles, BLOCK=block)
    return out


@triton.jit
def _of_tiles(x, values, columns, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    tile = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    at = tile * COLUMNS + tl.arange(0, COLUMNS)
    exists = at < WIDTH
    found = tl.load(x + row * WIDTH + at, mask=exists, other=float("-inf"))
    found = tl.where(is_nan(found), float("-inf"), found)
    best = tl.max(found, axis=0)
    place = row * tl.num_programs(0) + tile
    tl.store(values + place, best)
    tl.store(columns + place, tl.min(tl.where((found == best) & exists, at, 0x7FFFFFFF), axis=0))


@triton.jit
def _of_rows(values, columns, out, TILES: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, BLOCK)
    exists = tile < TILES
    found = tl.load(values + row * TILES + tile, mask=exists, other=float("-inf"))
    column = tl.load(columns + row * TILES + tile, mask=exists, other=0x7FFFFFFF)
    best = tl.max(found, axis=0)
    tl.store(out + row, tl.min(tl.where(found == best, column, 0x7FFFFFFF), axis=0))


def compile_cases() -> tuple[CompileCase, ...]:
    return (
        CompileCase(
            name="argmax 128896, tiles",
            kernel=_of_tiles,
            types={"x": "*fp32", "values": "*fp32", "columns": "*i32"},
            constexprs={"WIDTH": 128896, "COLUMNS": COLUMNS},
            max_registers=64,
            has_wide_loads=True,
        ),
        CompileCase(
            name="argmax 128896, rows",
            kernel=_of_rows,
            types={"values": "*fp32", "columns": "*i32", "out": "*i32"},
            constexprs={"TILES": 63, "BLOCK": 64},
            num_warps=1,
            max_registers=64,
        ),
    )
