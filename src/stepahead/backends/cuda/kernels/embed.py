"""Rows of a table of weights, decoded: with the roundings of `gguf.dequantize`, bit for bit."""

from functools import lru_cache

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.formats.format import FORMATS, LEVELS, Levels, Mins, Scales
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.gguf.quants import QuantType

NONE = tl.constexpr(int(Scales.NONE))
SIGNED = tl.constexpr(int(Scales.SIGNED))
NIBBLES = tl.constexpr(int(Scales.NIBBLES))
HALF = tl.constexpr(int(Scales.HALF))
EXPONENT = tl.constexpr(int(Scales.EXPONENT))
NO_MINS = tl.constexpr(int(Mins.NONE))
HALF_MINS = tl.constexpr(int(Mins.HALF))
COLUMNS = 1024


def embed(
    launch: Launcher, table: CudaMatrix, ids: torch.Tensor, remembered: torch.Tensor | None = None
) -> torch.Tensor:
    """table (vocab, width), ids (num_rows,) int32 below vocab -> (num_rows, width) float32.

    An id of -1 - n stands for remembered[n], which is any row where it is below 0.
    """
    remembered = ids if remembered is None else remembered
    num_rows, width = ids.shape[0], table.shape[1]
    y = torch.empty((num_rows, width), dtype=torch.float32, device=ids.device)
    if table.format is None:
        grid = (num_rows, triton.cdiv(width, COLUMNS))
        launch(_embed_plain, grid, table.data, ids, remembered, y, WIDTH=width, COLUMNS=COLUMNS)
    else:
        levels = _levels(table.format.levels, ids.device)
        grid = (num_rows, table.num_blocks)
        launch(
            _embed,
            grid,
            table.data,
            levels,
            ids,
            remembered,
            y,
            table.num_blocks,
            FORMAT=table.format,
            WIDTH=width,
            num_warps=1,
        )
    return y


@lru_cache
def _levels(levels: Levels, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(LEVELS[levels]).to(device)


@triton.jit
def _id(ids, remembered, row):
    id = tl.load(ids + row)
    if id < 0:
        id = tl.maximum(tl.load(remembered - 1 - id), 0)
    return id


@triton.jit
def _embed_plain(table, ids, remembered, y, WIDTH: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = column < WIDTH
    values = tl.load(table + _id(ids, remembered, row).to(tl.int64) * WIDTH + column, mask=mask, other=0.0)
    tl.store(y + row * WIDTH + column, values.to(tl.float32), mask=mask)


@triton.jit(do_not_specialize=["num_blocks"])
def _embed(words, levels, ids, remembered, y, num_blocks, FORMAT: tl.constexpr, WIDTH: tl.constexpr):
    """256 columns of a row."""
    WORDS: tl.constexpr = FORMAT.record_words
    LOW: tl.constexpr = FORMAT.low_bits
    HIGH: tl.constexpr = FORMAT.high_bits
    OFFSET: tl.constexpr = FORMAT.offset
    MINS: tl.constexpr = FORMAT.mins
    number, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    id = _id(ids, remembered, number)
    record = words + ((id // 16).to(tl.int64) * num_blocks + block) * WORDS
    row = id % 16
    k = tl.arange(0, 256)
    codes = _plane_codes(record, row, k, LOW)
    if HIGH != 0:
        HIGH_AT: tl.constexpr = FORMAT.high_at
        codes |= _plane_codes(record + HIGH_AT, row, k, HIGH) << LOW
    value = _scale(record, row, k, FORMAT) * (tl.load(levels + codes) - OFFSET)
    if MINS == HALF_MINS:
        value += _minimum(record, row, k, FORMAT)
    elif MINS != NO_MINS:
        value -= _minimum(record, row, k, FORMAT)
    column = block * 256 + k
    tl.store(y + number * WIDTH + column, value, mask=column < WIDTH)


@triton.jit
def _plane_codes(plane, row, k, BITS: tl.constexpr):
    """See formats/pack.py."""
    WORDS: tl.constexpr = 8 * BITS
    chunk, pair, odd = k // 64, k % 64 // 2, k % 2
    if BITS == 8:
        word, shift = 32 * (chunk // 2) + pair, 8 * (chunk % 2)
    else:
        word, shift = pair % WORDS, BITS * (4 * (pair // WORDS) + chunk)
    return (tl.load(plane + row * WORDS + word) >> (shift + 16 * odd)) & ((1 << BITS) - 1)


@triton.jit
def _scale(record, row, k, FORMAT: tl.constexpr):
    SCALES: tl.constexpr = FORMAT.scales
    GROUP: tl.constexpr = FORMAT.group
    AT: tl.constexpr = FORMAT.scales_at
    D_AT: tl.constexpr = FORMAT.d_at
    UNIT: tl.constexpr = FORMAT.unit
    group = k // GROUP
    if SCALES == HALF:
        scale = _half_at(record + AT, row, group)
    elif SCALES == EXPONENT:
        exponent = _byte_at(record + AT, row, group)
        bits = tl.where(exponent >= 2, (exponent - 1) << 23, 0x00200000 << exponent)
        scale = bits.to(tl.float32, bitcast=True)
    else:
        d = tl.load((record + D_AT).to(tl.pointer_type(tl.float16)) + row).to(tl.float32) * UNIT
        if SCALES == NONE:
            scale = tl.broadcast_to(d, k.shape)
        else:
            whole = _byte_at(record + AT, row, group)
            if SCALES == NIBBLES:
                whole &= 15
            elif SCALES == SIGNED:
                whole = (whole ^ 128) - 128
            scale = d * whole.to(tl.float32)
    return scale


@triton.jit
def _minimum(record, row, k, FORMAT: tl.constexpr):
    SCALES: tl.constexpr = FORMAT.scales
    MINS: tl.constexpr = FORMAT.mins
    GROUP: tl.constexpr = FORMAT.group
    SCALES_AT: tl.constexpr = FORMAT.scales_at
    AT: tl.constexpr = FORMAT.mins_at
    DMIN_AT: tl.constexpr = FORMAT.dmin_at
    group = k // GROUP
    if MINS == HALF_MINS:
        minimum = _half_at(record + AT, row, group)
    else:
        if SCALES == NIBBLES:
            whole = _byte_at(record + SCALES_AT, row, group) >> 4
        else:
            whole = _byte_at(record + AT, row, group)
        dmin = tl.load((record + DMIN_AT).to(tl.pointer_type(tl.float16)) + row).to(tl.float32)
        minimum = dmin * whole.to(tl.float32)
    return minimum


@triton.jit
def _byte_at(words, row, group):
    return (tl.load(words + group // 4 * 16 + row) >> (8 * (group % 4))) & 255


@triton.jit
def _half_at(words, row, group):
    bits = tl.load(words + group // 2 * 16 + row) >> (16 * (group % 2))
    return bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


def compile_cases() -> tuple[CompileCase, ...]:
    types = {"words": "*i32", "levels": "*fp32", "ids": "*i32", "remembered": "*i32", "y": "*fp32", "num_blocks": "i32"}
    return tuple(
        CompileCase(
            name=f"embed {type.name}",
            kernel=_embed,
            types=types,
            constexprs={"FORMAT": FORMATS[type], "WIDTH": 4096},
            num_warps=1,
            targets=("sm_90", "gfx942"),
        )
        for type in (QuantType.Q4_K, QuantType.Q8_0)
    )
