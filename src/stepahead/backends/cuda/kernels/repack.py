"""Rows of a GGUF file, as bytes on the GPU, to packed records: what `formats/pack.py` specifies, bit for bit."""

import torch
import triton
import triton.language as tl

from stepahead.backends.cuda.compile_case import CompileCase
from stepahead.backends.cuda.formats.format import BLOCK, FORMATS, TILE_ROWS, Mins, Scales
from stepahead.backends.cuda.formats.source import SOURCES
from stepahead.backends.cuda.launch import Launcher
from stepahead.gguf.quants import QuantType

UNSIGNED = tl.constexpr(int(Scales.UNSIGNED))
NIBBLES = tl.constexpr(int(Scales.NIBBLES))
HALF = tl.constexpr(int(Scales.HALF))
EXPONENT = tl.constexpr(int(Scales.EXPONENT))
HALF_MINS = tl.constexpr(int(Mins.HALF))


def repack(launch: Launcher, raw: torch.Tensor, type: QuantType, width: int, records: torch.Tensor) -> None:
    """raw: (rows, row_bytes) uint8, the first of which begins a tile; records: int32 (row tiles, K blocks, words) of
    these rows. Behind the last row a tile is filled up with zeros."""
    num_rows, row_bytes = raw.shape
    tiles, blocks, _ = records.shape
    assert tiles == -(-num_rows // TILE_ROWS) and blocks == -(-width // BLOCK) and row_bytes == type.row_bytes(width)
    launch(
        _repack, (blocks, tiles), raw, records, num_rows, row_bytes, width, blocks,
        FORMAT=FORMATS[type], SOURCE=SOURCES[type],
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_rows", "row_bytes", "width", "num_blocks"])
def _repack(raw, records, num_rows, row_bytes, width, num_blocks, FORMAT: tl.constexpr, SOURCE: tl.constexpr):
    """One record a program."""
    block, tile = tl.program_id(0), tl.program_id(1)
    PER_RECORD: tl.constexpr = 256 // SOURCE.block_size
    BLOCK_BYTES: tl.constexpr = SOURCE.block_bytes
    RECORD_WORDS: tl.constexpr = FORMAT.record_words
    record = records + (tile.to(tl.int64) * num_blocks + block) * RECORD_WORDS
    row = tl.arange(0, 16)
    exists = tile * 16 + row < num_rows
    bytes = raw + (tile * 16 + row).to(tl.int64) * row_bytes + block * (PER_RECORD * BLOCK_BYTES)
    left = width - block * 256  # inputs from this record on
    LOW: tl.constexpr = FORMAT.low_bits
    HIGH: tl.constexpr = FORMAT.high_bits
    LOW_CODES: tl.constexpr = SOURCE.low
    _pack_plane(record, bytes, exists, left, LOW_CODES, LOW, SOURCE)
    if HIGH != 0:
        HIGH_AT: tl.constexpr = FORMAT.high_at
        HIGH_CODES: tl.constexpr = SOURCE.high
        _pack_plane(record + HIGH_AT, bytes, exists, left, HIGH_CODES, HIGH, SOURCE)
    SCALE_WORDS: tl.constexpr = FORMAT.scale_words
    MIN_WORDS: tl.constexpr = FORMAT.min_words
    SCALES_AT: tl.constexpr = FORMAT.scales_at
    MINS_AT: tl.constexpr = FORMAT.mins_at
    _pack_groups(record + SCALES_AT, bytes, exists, left, False, SCALE_WORDS, FORMAT, SOURCE)
    if MIN_WORDS != 0:
        _pack_groups(record + MINS_AT, bytes, exists, left, True, MIN_WORDS, FORMAT, SOURCE)
    D_AT: tl.constexpr = FORMAT.d_at
    DMIN_AT: tl.constexpr = FORMAT.dmin_at
    if DMIN_AT > D_AT:
        half = _half(bytes + SOURCE.d_at, exists)
        tl.store((record + D_AT).to(tl.pointer_type(tl.int16)) + row, half.to(tl.int16))
    if RECORD_WORDS > DMIN_AT:
        half = _half(bytes + SOURCE.dmin_at, exists)
        tl.store((record + DMIN_AT).to(tl.pointer_type(tl.int16)) + row, half.to(tl.int16))


@triton.jit
def _pack_plane(plane, bytes, exists, left, CODES: tl.constexpr, BITS: tl.constexpr, SOURCE: tl.constexpr):
    """The bits of the codes that CODES says, (16, 8 * BITS) words."""
    WORDS: tl.constexpr = 8 * BITS
    word = tl.arange(0, WORDS)
    packed = tl.zeros((16, WORDS), tl.int32)
    if BITS == 8:
        for half in tl.static_range(2):
            for odd in tl.static_range(2):
                k = 64 * (2 * (word // 32) + half) + 2 * (word % 32) + odd
                packed |= _codes(bytes, exists, left, k, CODES, BITS, SOURCE) << (8 * half + 16 * odd)
    else:
        for turn in tl.static_range(4 // BITS):
            for chunk in tl.static_range(4):
                for odd in tl.static_range(2):
                    k = 64 * chunk + 2 * (word + WORDS * turn) + odd
                    codes = _codes(bytes, exists, left, k, CODES, BITS, SOURCE)
                    packed |= codes << (BITS * (4 * turn + chunk) + 16 * odd)
    tl.store(plane + tl.arange(0, 16)[:, None] * WORDS + word[None, :], packed)


@triton.jit
def _codes(bytes, exists, left, k, CODES: tl.constexpr, BITS: tl.constexpr, SOURCE: tl.constexpr):
    """(16, n) int32 for inputs k (n,) of the record; zeros where there is no weight."""
    START: tl.constexpr = CODES.start
    SPAN: tl.constexpr = CODES.span
    INNER: tl.constexpr = CODES.inner
    SIZE: tl.constexpr = SOURCE.block_size
    FLIP: tl.constexpr = SOURCE.flip
    inside = k % SIZE
    if INNER == 0:
        at = START + inside // 8
        shift = inside % 8
    else:
        at = START + INNER * (inside // SPAN) + inside % INNER
        shift = BITS * (inside % SPAN // INNER)
    at += k // SIZE * SOURCE.block_bytes
    mask = exists[:, None] & (k < left)[None, :]
    codes = tl.load(bytes[:, None] + at[None, :], mask=mask, other=0).to(tl.int32)
    return tl.where(mask, ((codes ^ FLIP) >> shift[None, :]) & ((1 << BITS) - 1), 0)


@triton.jit
def _pack_groups(
    words, bytes, exists, left, IS_MIN: tl.constexpr, WORDS: tl.constexpr, FORMAT: tl.constexpr, SOURCE: tl.constexpr
):
    """Scales or minima of the groups, WORDS words of 16 rows each."""
    GROUP: tl.constexpr = FORMAT.group
    SIZE: tl.constexpr = SOURCE.block_size
    IS_HALF: tl.constexpr = FORMAT.scales == HALF
    PER_WORD: tl.constexpr = 2 if IS_HALF else 4
    word = tl.arange(0, WORDS)
    packed = tl.zeros((WORDS, 16), tl.int32)
    for field in tl.static_range(PER_WORD):
        group = PER_WORD * word + field
        mask = exists[None, :] & (group * GROUP < left)[:, None]
        if SIZE == 32:
            at = bytes[None, :] + (group * SOURCE.block_bytes)[:, None]
            if IS_HALF:  # noqa: SIM108 - Triton's
                scale = _half(at + (SOURCE.dmin_at if IS_MIN else SOURCE.d_at), mask)
            else:
                scale = _byte(at, mask)
        else:
            scale = _whole(bytes[None, :] + SOURCE.scales_at, group[:, None], mask, IS_MIN, FORMAT, SOURCE)
        packed |= scale << (32 // PER_WORD * field)
    tl.store(words + word[:, None] * 16 + tl.arange(0, 16)[None, :], packed)


@triton.jit
def _whole(at, group, mask, IS_MIN: tl.constexpr, FORMAT: tl.constexpr, SOURCE: tl.constexpr):
    """Whole scales of a block of 256, 8 bits each."""
    SCALES: tl.constexpr = FORMAT.scales
    GROUP: tl.constexpr = FORMAT.group
    HIGH: tl.constexpr = FORMAT.high_bits
    if SCALES == UNSIGNED:  # 6 bits: of the first four groups in one byte, of the others in a nibble and two bits
        in_byte = _byte(at + (4 if IS_MIN else 0) + group % 4, mask)
        in_nibble = _byte(at + 8 + group % 4, mask) >> (4 if IS_MIN else 0)
        scale = tl.where(group < 4, in_byte & 63, (in_nibble & 15) | (in_byte >> 6 << 4))
    elif SCALES == NIBBLES:
        scale = _byte(at + group, mask)
    elif GROUP == 32:  # IQ4_XS: two upper bits of each, then nibbles
        low = _byte(at + 2 + group // 2, mask) >> (group % 2 * 4)
        scale = (low & 15 | ((_byte(at + group // 4, mask) >> (group % 4 * 2)) & 3) << 4) - 32
    elif HIGH == 1:  # Q3_K: nibbles, then two upper bits of each
        low = _byte(at + group % 8, mask) >> (group // 8 * 4)
        scale = (low & 15 | ((_byte(at + 8 + group % 4, mask) >> (group // 4 * 2)) & 3) << 4) - 32
    else:
        scale = _byte(at + group, mask)
    return tl.where(mask, scale & 255, 0)


@triton.jit
def _byte(at, mask):
    return tl.load(at, mask=mask, other=0).to(tl.int32)


@triton.jit
def _half(at, mask):
    return _byte(at, mask) | _byte(at + 1, mask) << 8


def compile_cases() -> tuple[CompileCase, ...]:
    numbers = dict.fromkeys(("num_rows", "row_bytes", "width", "num_blocks"), "i32")
    return tuple(
        CompileCase(
            name=f"repack {type.name}",
            kernel=_repack,
            types={"raw": "*u8", "records": "*i32", **numbers},
            constexprs={"FORMAT": FORMATS[type], "SOURCE": SOURCES[type]},
            targets=("sm_90",),
        )
        for type in (QuantType.Q4_K, QuantType.Q6_K, QuantType.Q8_0)
    )
