"""Packing in numpy: the specification of the records that kernels read, and of the kernel that makes them on the GPU.

In a record of 16 rows x 256 inputs the weight k of a row belongs to chunk c = k // 64 and pair j = k % 64 // 2. Where a
plane has b <= 4 bits, its code stands in word j % 8b of the row, at bit b * (4 * (j // 8b) + c), 16 bits higher for odd
k: one shift and one mask bring the two codes of a pair under the mantissas of two halves. Of 8 bits it stands in word
32 * (c // 2) + j, at bit 8 * (c % 2).
"""

from dataclasses import fields as fields_of_class

import numpy as np
import numpy.typing as npt

from stepahead.backends.cuda.formats.fields import EMPTY, Bits, Fields
from stepahead.backends.cuda.formats.format import BLOCK, TILE_ROWS, Format, Mins, Scales
from stepahead.gguf.block_quants import Bytes

Words = npt.NDArray[np.uint32]


def record_grid(shape: tuple[int, ...]) -> tuple[int, int]:
    """Records of a matrix (…, out, in): along the outputs, along the inputs."""
    return -(-shape[-2] // TILE_ROWS), -(-shape[-1] // BLOCK)


def pack(found: Fields, form: Format) -> Words:
    """Fields of (out, in) to (row tiles, blocks, record_words)."""
    tiles, blocks = record_grid(found.codes.shape)
    codes = _padded(found.codes, tiles, blocks * BLOCK)
    parts = [_plane(codes & np.uint8((1 << form.low_bits) - 1), form.low_bits, blocks)]
    if form.high_bits:
        parts.append(_plane(codes >> np.uint8(form.low_bits), form.high_bits, blocks))
    parts += [_row_words(_padded(part, tiles, blocks * form.num_groups), blocks) for part in _of_groups(found, form)]
    parts += [_halves(_padded(part, tiles, blocks), blocks) for part in (found.d, found.dmin) if part.size]
    packed: Words = np.concatenate(parts, axis=2)
    assert packed.shape == (tiles, blocks, form.record_words)
    return packed


def unpack(words: Words, form: Format, shape: tuple[int, int]) -> Fields:
    """What `pack` was given."""
    rows, width = shape
    codes = _plane_codes(words[..., : form.high_at], form.low_bits)
    if form.high_bits:
        high = _plane_codes(words[..., form.high_at : form.scales_at], form.high_bits)
        codes = codes | high << np.uint8(form.low_bits)
    scales = _row_fields(words[..., form.scales_at : form.mins_at], form.scales == Scales.HALF)
    mins = _row_fields(words[..., form.mins_at : form.d_at], form.mins == Mins.HALF)
    d = _half_fields(words[..., form.d_at : form.dmin_at])
    dmin = _half_fields(words[..., form.dmin_at :])
    found = Fields(codes, scales, mins, d, dmin)
    counts = (width, width // form.group, width // form.group, -(-width // BLOCK), -(-width // BLOCK))
    parts = (getattr(found, field.name) for field in fields_of_class(Fields))
    return Fields(*(p[:rows, :n] if p.size else EMPTY for p, n in zip(parts, counts, strict=True)))


def _of_groups(found: Fields, form: Format) -> list[Bits]:
    return [part for part, n in ((found.scales, form.scale_words), (found.mins, form.min_words)) if n]


def _padded(part: Bits, tiles: int, width: int) -> Bits:
    padded = np.zeros((tiles * TILE_ROWS, width), part.dtype)
    padded[: part.shape[0], : part.shape[1]] = part
    return padded


def _plane(codes: Bits, bits: int, blocks: int) -> Words:
    """(rows, K) -> (tiles, blocks, 16 * 8 * bits)."""
    # rows, blocks, chunk, pair, odd
    by_pair = codes.reshape(-1, TILE_ROWS, blocks, 4, 32, 2).astype(np.uint32)
    shift = np.uint32(16) * np.arange(2, dtype=np.uint32)
    if bits == 8:
        split = by_pair.reshape(-1, TILE_ROWS, blocks, 2, 2, 32, 2)
        shifts = shift + np.uint32(8) * np.arange(2, dtype=np.uint32)[:, None, None]
        words = np.bitwise_or.reduce(split << shifts, axis=(4, 6)).reshape(-1, TILE_ROWS, blocks, 64)
    else:
        split = by_pair.reshape(-1, TILE_ROWS, blocks, 4, 4 // bits, 8 * bits, 2)
        chunk = np.arange(4, dtype=np.uint32)[:, None, None, None]
        turn = np.arange(4 // bits, dtype=np.uint32)[:, None, None]
        words = np.bitwise_or.reduce(split << (shift + np.uint32(bits) * (4 * turn + chunk)), axis=(3, 4, 6))
    return words.transpose(0, 2, 1, 3).reshape(words.shape[0], blocks, -1)


def _plane_codes(words: Words, bits: int) -> Bytes:
    tiles, blocks, _ = words.shape
    rows = words.reshape(tiles, blocks, TILE_ROWS, -1).transpose(0, 2, 1, 3)
    shift = np.uint32(16) * np.arange(2, dtype=np.uint32)
    if bits == 8:
        shifts = shift + np.uint32(8) * np.arange(2, dtype=np.uint32)[:, None, None]
        codes = rows.reshape(tiles, TILE_ROWS, blocks, 2, 1, 32, 1) >> shifts
    else:
        chunk = np.arange(4, dtype=np.uint32)[:, None, None, None]
        turn = np.arange(4 // bits, dtype=np.uint32)[:, None, None]
        codes = rows[:, :, :, None, None, :, None] >> (shift + np.uint32(bits) * (4 * turn + chunk))
    return (codes & np.uint32((1 << bits) - 1)).astype(np.uint8).reshape(tiles * TILE_ROWS, blocks * BLOCK)


def _row_words(part: Bits, blocks: int) -> Words:
    """(rows, groups) of bytes or halves -> (tiles, blocks, words a row * 16), word after word."""
    words = (
        np.ascontiguousarray(part)
        .view("<u4")
        .reshape(-1, TILE_ROWS, blocks, part.itemsize * part.shape[1] // blocks // 4)
    )
    return words.transpose(0, 2, 3, 1).reshape(words.shape[0], blocks, -1)


def _row_fields(words: Words, are_halves: bool) -> Bits:
    if not words.size:
        return EMPTY
    tiles, blocks, _ = words.shape
    rows = words.reshape(tiles, blocks, -1, TILE_ROWS).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(rows).view("<u2" if are_halves else np.uint8).reshape(tiles * TILE_ROWS, -1)


def _halves(part: Bits, blocks: int) -> Words:
    """(rows, blocks) of halves -> (tiles, blocks, 8)."""
    halves = part.reshape(-1, TILE_ROWS, blocks).transpose(0, 2, 1)
    return np.ascontiguousarray(halves).view("<u4")


def _half_fields(words: Words) -> Bits:
    if not words.size:
        return EMPTY
    tiles, blocks, _ = words.shape
    halves = np.ascontiguousarray(words).view("<u2").transpose(0, 2, 1)
    return np.ascontiguousarray(halves).reshape(tiles * TILE_ROWS, blocks)
