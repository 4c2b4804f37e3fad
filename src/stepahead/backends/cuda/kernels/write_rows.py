"""Packed rows into a matrix that stays where it is: the others are not touched, not even for a moment."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.formats.format import FORMATS, Format
from stepahead.backends.cuda.launch import Launcher
from stepahead.gguf.quants import QuantType


def write_rows(launch: Launcher, packed: torch.Tensor, rows: torch.Tensor, form: Format, records: torch.Tensor) -> None:
    """packed: records of as many rows as there are in `rows`, int32; the first becomes row rows[0] of `records`, and
    so on. No row is named twice."""
    num_blocks = records.shape[1]
    launch(_write_rows, (num_blocks, len(rows)), packed, rows, records, num_blocks, FORMAT=form)


@triton.jit(do_not_specialize=["num_blocks"])
def _write_rows(packed, rows, records, num_blocks, FORMAT: tl.constexpr):
    """A row of a record a program. Neighbours share words of d and dmin, so that these are written as halves."""
    block, number = tl.program_id(0), tl.program_id(1)
    row = tl.load(rows + number)
    RECORD_WORDS: tl.constexpr = FORMAT.record_words
    source = packed + ((number // 16).to(tl.int64) * num_blocks + block) * RECORD_WORDS
    target = records + ((row // 16).to(tl.int64) * num_blocks + block) * RECORD_WORDS
    old, new = number % 16, row % 16
    LOW_WORDS: tl.constexpr = FORMAT.low_words
    HIGH_WORDS: tl.constexpr = FORMAT.high_words
    HIGH_AT: tl.constexpr = FORMAT.high_at
    _copy(source + old * LOW_WORDS, target + new * LOW_WORDS, LOW_WORDS, 1)
    if HIGH_WORDS != 0:
        _copy(source + HIGH_AT + old * HIGH_WORDS, target + HIGH_AT + new * HIGH_WORDS, HIGH_WORDS, 1)
    SCALE_WORDS: tl.constexpr = FORMAT.scale_words
    SCALES_AT: tl.constexpr = FORMAT.scales_at
    if SCALE_WORDS != 0:
        _copy(source + SCALES_AT + old, target + SCALES_AT + new, SCALE_WORDS, 16)
    MIN_WORDS: tl.constexpr = FORMAT.min_words
    MINS_AT: tl.constexpr = FORMAT.mins_at
    if MIN_WORDS != 0:
        _copy(source + MINS_AT + old, target + MINS_AT + new, MIN_WORDS, 16)
    D_AT: tl.constexpr = FORMAT.d_at
    DMIN_AT: tl.constexpr = FORMAT.dmin_at
    if DMIN_AT > D_AT:
        _copy_half(source + D_AT, target + D_AT, old, new)
    if RECORD_WORDS > DMIN_AT:
        _copy_half(source + DMIN_AT, target + DMIN_AT, old, new)


@triton.jit
def _copy(source, target, WORDS: tl.constexpr, STEP: tl.constexpr):
    words = tl.arange(0, WORDS) * STEP
    tl.store(target + words, tl.load(source + words))


@triton.jit
def _copy_half(source, target, old, new):
    half = tl.load(source.to(tl.pointer_type(tl.int16)) + old)
    tl.store(target.to(tl.pointer_type(tl.int16)) + new, half)


def compile_cases() -> tuple[CompileCase, ...]:
    return tuple(
        CompileCase(
            name=f"write_rows {type.name}",
            kernel=_write_rows,
            types={"packed": "*i32", "rows": "*i32", "records": "*i32", "num_blocks": "i32"},
            constexprs={"FORMAT": FORMATS[type]},
            targets=("sm_90",),
        )
        for type in (QuantType.Q5_K, QuantType.Q8_0)
    )
