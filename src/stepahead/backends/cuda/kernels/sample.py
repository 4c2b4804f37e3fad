"""Choice of tokens, as engine/sampler.py makes it: temperature, top-k, top-p, min-p, seeded Gumbel noise, argmax.

Three launches, whatever the number of rows. `_peaks`: the best two of each tile of columns. `_tiles`: with the row's
best known, each tile's sums and, of a row without top-k and top-p, its best two with noise; of the others its LISTED
largest columns. `_choose`: one program a row puts the tiles together. Where a filter may want a column that no tile has
listed, and where logits are no numbers, the row stays undecided: the host has the exact, slower way.
"""

import math

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.routing import power_of_two
from stepahead.backends.cuda.sampling import SampledRows, SampleInputs

TILE = 2048
LISTED = 32
"""Columns that a tile of a filtered row names: of 128,896 in all 2,016."""

TILE_WARPS, ROW_WARPS = 8, 16
"""A logarithm in float64 and a sorting network are long code for each number that a thread has: it has 8, and 4."""

_NO_KEY = tl.constexpr(-(1 << 63))
_NO_COLUMN = tl.constexpr((1 << 31) - 1)
REACH = -math.log(-math.log1p(-(2.0**-24))) + math.log(24.0 * math.log(2.0)) + 1e-6
"""A scaled logit further than this below another's can never overtake it: from the least to the largest noise."""
_REACH = tl.constexpr(REACH)


def sample(
    launch: Launcher, logits: torch.Tensor, rows: SampleInputs, column_ids: torch.Tensor | None = None
) -> SampledRows:
    """logits: (num_rows, num_columns) float32; column_ids: (num_columns,) int32, -1: the column is none, whatever it
    holds; None: a column's id is its number."""
    num_rows, num_columns = logits.shape
    num_tiles = triton.cdiv(num_columns, TILE)
    tiles, like = (num_rows, num_tiles), {"device": logits.device}
    peaks = torch.empty((*tiles, 2), dtype=torch.int64, **like)
    listed = torch.empty((*tiles, LISTED), dtype=torch.int64, **like)
    sums = torch.empty((*tiles, 3), dtype=torch.float64, **like)
    columns = torch.empty(tiles, dtype=torch.int32, **like)
    sampled = SampledRows(
        torch.empty(num_rows, dtype=torch.int32, **like), torch.empty(num_rows, dtype=torch.float64, **like)
    )
    ids = logits if column_ids is None else column_ids
    of_rows = (rows.seeds, rows.positions, rows.temperatures, rows.top_k, rows.top_p, rows.min_p)
    sizes = {"NUM_COLUMNS": num_columns, "NUM_TILES": num_tiles, "PADDED_TILES": power_of_two(num_tiles)}
    flags = {"LISTED_A_TILE": LISTED, "HAS_IDS": column_ids is not None}
    launch(
        _peaks, tiles[::-1], logits, ids, peaks,
        NUM_COLUMNS=num_columns, NUM_TILES=num_tiles, COLUMNS=TILE, HAS_IDS=column_ids is not None,
    )  # fmt: skip
    launch(
        _tiles, tiles[::-1], logits, ids, *of_rows, peaks, listed, sums, columns,
        num_warps=TILE_WARPS, COLUMNS=TILE, **sizes, **flags,
    )  # fmt: skip
    launch(
        _choose, (num_rows,), ids, *of_rows, rows.plain, peaks, listed, sums, columns, sampled.token_ids, sampled.leads,
        num_warps=ROW_WARPS, **sizes, **flags,
    )  # fmt: skip
    return sampled


@triton.jit
def _keys(x, columns):
    """int64 that order as the floats do, NaN above all, and among equals the lowest column first."""
    x = tl.where(x == 0, 0.0, x)  # there are two zeros
    bits = x.to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    ordered = tl.where(x != x, 0x7FFFFFFF, ordered)
    return (ordered.to(tl.int64) << 32) + (0x7FFFFFFF - columns).to(tl.int64)


@triton.jit
def _value(key):
    """float64 of the float32 that it was made of."""
    ordered = (key >> 32).to(tl.int32)
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.to(tl.float32, bitcast=True).to(tl.float64)


@triton.jit
def _column(key):
    return 0x7FFFFFFF - (key & 0x7FFFFFFF).to(tl.int32)


@triton.jit
def _ids(column_ids, columns, NUM_COLUMNS: tl.constexpr, HAS_IDS: tl.constexpr):
    """Token ids of columns, -1 of what is none."""
    ids = columns
    if HAS_IDS:
        ids = tl.load(column_ids + columns, mask=columns < NUM_COLUMNS, other=-1)
    return tl.where(columns < NUM_COLUMNS, ids, -1)


@triton.jit
def _peaks(
    logits, column_ids, peaks,
    NUM_COLUMNS: tl.constexpr, NUM_TILES: tl.constexpr, COLUMNS: tl.constexpr, HAS_IDS: tl.constexpr,
):  # fmt: skip
    tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    columns = tile * COLUMNS + tl.arange(0, COLUMNS)
    is_column = _ids(column_ids, columns, NUM_COLUMNS, HAS_IDS) >= 0
    x = tl.load(logits + row * NUM_COLUMNS + columns, mask=is_column, other=0.0)
    keys = tl.where(is_column, _keys(x, columns), _NO_KEY)
    best = tl.max(keys, 0)
    out = peaks + (row * NUM_TILES + tile) * 2
    tl.store(out, best)
    tl.store(out + 1, tl.max(tl.where(keys == best, _NO_KEY, keys), 0))


@triton.jit
def _best_two(peaks, row, NUM_TILES: tl.constexpr, PADDED_TILES: tl.constexpr):
    """Keys of the row's two largest logits; the second is no key where there is one column."""
    tiles = tl.arange(0, PADDED_TILES)
    own = peaks + (row * NUM_TILES + tiles) * 2
    firsts = tl.load(own, mask=tiles < NUM_TILES, other=_NO_KEY)
    seconds = tl.load(own + 1, mask=tiles < NUM_TILES, other=_NO_KEY)
    best = tl.max(firsts, 0)
    return best, tl.max(tl.where(firsts == best, seconds, firsts), 0)


@triton.jit
def _lead(best, second):
    """Of the largest logit over the second, infinite where there is none."""
    return tl.where(second == _NO_KEY, float("inf"), _value(best) - _value(second))


@triton.jit
def _has_list(top_k, top_p, NUM_COLUMNS: tl.constexpr):
    return ((top_k > 0) & (top_k < NUM_COLUMNS)) | (top_p < 1.0)


@triton.jit
def _noise(seed, position, ids):
    """Standard Gumbel noise of the tokens' words, float64: backends/reference/philox.py and engine/gumbel.py."""
    blocks = (ids >> 2).to(tl.uint32)
    zeros = blocks * 0
    low, high = (position & 0xFFFFFFFF).to(tl.uint32), (position >> 32).to(tl.uint32)
    a, b, c, d = tl.philox(seed, blocks, zeros + low, zeros + high, zeros)
    place = ids & 3
    word = tl.where(place < 2, tl.where(place == 0, a, b), tl.where(place == 2, c, d)).to(tl.uint32, bitcast=True)
    uniform = ((word >> 9).to(tl.float64) + 0.5) * 1.1920928955078125e-07  # 2^-23
    return -tl.log(-tl.log(uniform))


@triton.jit
def _least(min_p, lead):
    """The scaled logit below which min-p leaves nothing, or nothing can come first or second."""
    by_p = tl.where(min_p > 0.0, tl.log(tl.where(min_p > 0.0, min_p, 1.0)), float("-inf"))
    return tl.maximum(by_p, -lead - _REACH)


@triton.jit
def _tiles(
    logits,
    column_ids,
    seeds,
    positions,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    peaks,
    listed,
    sums,
    best_columns,
    COLUMNS: tl.constexpr,
    NUM_COLUMNS: tl.constexpr,
    NUM_TILES: tl.constexpr,
    PADDED_TILES: tl.constexpr,
    LISTED_A_TILE: tl.constexpr,
    HAS_IDS: tl.constexpr,
):
    tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    temperature = tl.load(temperatures + row)
    if temperature > 0.0:
        best, second = _best_two(peaks, row, NUM_TILES, PADDED_TILES)
        columns = tile * COLUMNS + tl.arange(0, COLUMNS)
        ids = _ids(column_ids, columns, NUM_COLUMNS, HAS_IDS)
        is_column = ids >= 0
        x = tl.load(logits + row * NUM_COLUMNS + columns, mask=is_column, other=0.0)
        scaled = (x.to(tl.float64) - _value(best)) / temperature
        out = sums + (row * NUM_TILES + tile) * 3
        tl.store(out, tl.sum(tl.where(is_column, tl.exp(scaled), 0.0), 0))
        if _has_list(tl.load(top_ks + row), tl.load(top_ps + row), NUM_COLUMNS):
            keys = tl.where(is_column, _keys(x, columns), _NO_KEY)
            largest = tl.topk(keys, LISTED_A_TILE)
            slots = (row * NUM_TILES + tile) * LISTED_A_TILE + tl.arange(0, LISTED_A_TILE)
            tl.store(listed + slots, largest)
        else:
            noisy = scaled + _noise(tl.load(seeds + row), tl.load(positions + row), ids)
            least = _least(tl.load(min_ps + row), _lead(best, second) / temperature)
            kept = is_column & (scaled >= least)
            noisy = tl.where(kept, noisy, float("-inf"))
            top = tl.max(noisy, 0)
            column = tl.min(tl.where(kept & (noisy == top), columns, _NO_COLUMN), 0)
            tl.store(out + 1, top)
            tl.store(out + 2, tl.max(tl.where(columns == column, float("-inf"), noisy), 0))
            tl.store(best_columns + row * NUM_TILES + tile, column)


@triton.jit
def _of_tiles(sums, best_columns, row, NUM_TILES: tl.constexpr, PADDED_TILES: tl.constexpr):
    """Column and lead of an unfiltered row."""
    tiles = tl.arange(0, PADDED_TILES)
    own = sums + (row * NUM_TILES + tiles) * 3
    tops = tl.load(own + 1, mask=tiles < NUM_TILES, other=float("-inf"))
    seconds = tl.load(own + 2, mask=tiles < NUM_TILES, other=float("-inf"))
    columns = tl.load(best_columns + row * NUM_TILES + tiles, mask=tiles < NUM_TILES, other=_NO_COLUMN)
    top = tl.max(tops, 0)
    column = tl.min(tl.where(tops == top, columns, _NO_COLUMN), 0)
    return column, top - tl.max(tl.where(columns == column, seconds, tops), 0)


@triton.jit
def _of_list(
    column_ids, listed, sums, row, seed, position, temperature, top_k, top_p, min_p, best, lead,
    NUM_COLUMNS: tl.constexpr, NUM_TILES: tl.constexpr, PADDED_TILES: tl.constexpr, LISTED_A_TILE: tl.constexpr,
    HAS_IDS: tl.constexpr,
):  # fmt: skip
    """Column and lead of a filtered row; False where columns that are not listed may be among the filtered."""
    tiles = tl.arange(0, PADDED_TILES)
    lasts = listed + (row * NUM_TILES + tiles) * LISTED_A_TILE + LISTED_A_TILE - 1
    bound = tl.max(tl.load(lasts, mask=tiles < NUM_TILES, other=_NO_KEY), 0)  # all above it are listed
    total = tl.sum(tl.load(sums + (row * NUM_TILES + tiles) * 3, mask=tiles < NUM_TILES, other=0.0), 0)
    places = tl.arange(0, PADDED_TILES * LISTED_A_TILE)
    is_listed = places < NUM_TILES * LISTED_A_TILE
    keys = tl.load(listed + row * NUM_TILES * LISTED_A_TILE + places, mask=is_listed, other=_NO_KEY)
    keys = tl.sort(keys, descending=True)
    is_key = keys != _NO_KEY
    scaled = tl.where(is_key, (_value(keys) - _value(best)) / temperature, float("-inf"))
    has_k = (top_k > 0) & (top_k < NUM_COLUMNS)
    is_kept = is_key & ((places < top_k) | (not has_k))
    weights = tl.where(is_kept, tl.exp(scaled), 0.0)
    target = top_p * tl.where(has_k, tl.sum(weights, 0), total)
    num_below = tl.sum((is_kept & (tl.cumsum(weights, 0) < target)).to(tl.int32), 0)
    num_kept = tl.sum(is_kept.to(tl.int32), 0)
    num_nucleus = tl.where(top_p < 1.0, num_below + 1, num_kept)
    # Of top-k all k have to be known, for their sum; else those of the nucleus.
    needed = tl.where(has_k, top_k, num_nucleus)
    is_known = (needed <= num_kept) & (tl.sum(tl.where(places == needed - 1, keys, 0), 0) >= bound)
    columns = _column(keys)
    ids = tl.load(column_ids + columns, mask=is_key, other=0) if HAS_IDS else columns
    kept = is_kept & (places < num_nucleus) & (scaled >= _least(min_p, lead))
    noisy = tl.where(kept, scaled + _noise(seed, position, ids), float("-inf"))
    top = tl.max(noisy, 0)
    column = tl.min(tl.where(kept & (noisy == top), columns, _NO_COLUMN), 0)
    return column, top - tl.max(tl.where(columns == column, float("-inf"), noisy), 0), is_known


@triton.jit
def _choose(
    column_ids,
    seeds,
    positions,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    plain,
    peaks,
    listed,
    sums,
    best_columns,
    token_ids,
    leads,
    NUM_COLUMNS: tl.constexpr,
    NUM_TILES: tl.constexpr,
    PADDED_TILES: tl.constexpr,
    LISTED_A_TILE: tl.constexpr,
    HAS_IDS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperatures + row)
    best, second = _best_two(peaks, row, NUM_TILES, PADDED_TILES)
    column, lead = _column(best), _lead(best, second)
    is_decided = (tl.load(plain + row) != 0) & (tl.abs(_value(best)) < float("inf"))
    if temperature > 0.0:
        lead = lead / temperature
        if lead < float("inf"):
            top_k, top_p = tl.load(top_ks + row), tl.load(top_ps + row)
            if _has_list(top_k, top_p, NUM_COLUMNS):
                column, lead, is_known = _of_list(
                    column_ids, listed, sums, row, tl.load(seeds + row), tl.load(positions + row), temperature,
                    top_k, top_p, tl.load(min_ps + row), best, lead,
                    NUM_COLUMNS, NUM_TILES, PADDED_TILES, LISTED_A_TILE, HAS_IDS,
                )  # fmt: skip
                is_decided = is_decided & is_known
            else:
                column, lead = _of_tiles(sums, best_columns, row, NUM_TILES, PADDED_TILES)
    token_id = tl.load(column_ids + column, mask=is_decided, other=0) if HAS_IDS else column
    tl.store(token_ids + row, tl.where(is_decided, token_id, -1))
    tl.store(leads + row, tl.where(is_decided, lead, 0.0))


def compile_cases() -> tuple[CompileCase, ...]:
    """Step's vocabulary; two targets, for these take seconds each."""
    sizes = {"NUM_COLUMNS": 128896, "NUM_TILES": 63, "PADDED_TILES": 64, "LISTED_A_TILE": LISTED, "HAS_IDS": False}
    rows = {"seeds": "*i64", "positions": "*i64", "temperatures": "*fp64", "top_ks": "*i32"}
    rows |= {"top_ps": "*fp64", "min_ps": "*fp64"}
    partial = {"peaks": "*i64", "listed": "*i64", "sums": "*fp64", "best_columns": "*i32"}
    chosen = {"plain": "*i8", **partial, "token_ids": "*i32", "leads": "*fp64"}
    return (
        CompileCase(
            name="sample/peaks",
            kernel=_peaks,
            types={"logits": "*fp32", "column_ids": "*fp32", "peaks": "*i64"},
            constexprs={"NUM_COLUMNS": 128896, "NUM_TILES": 63, "COLUMNS": TILE, "HAS_IDS": False},
        ),
        CompileCase(
            name="sample/tiles",
            kernel=_tiles,
            types={"logits": "*fp32", "column_ids": "*fp32", **rows, **partial},
            constexprs={"COLUMNS": TILE, **sizes},
            num_warps=TILE_WARPS,
            targets=("sm_90", "gfx942"),
        ),
        CompileCase(
            name="sample/choose",
            kernel=_choose,
            types={"column_ids": "*fp32", **rows, **chosen},
            constexprs=sizes,
            num_warps=ROW_WARPS,
            targets=("sm_90", "gfx942"),
        ),
    )
