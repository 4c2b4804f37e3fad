"""Tiles of packed weights as kernels multiply them: the one place where codes become numbers on the way to a product.

A kernel that multiplies has `words`, the int32 records of a matrix of `num_blocks` K blocks, and its FORMAT
(formats/format.py). For BN output rows that begin with tile `first_tile` of the matrix (16 rows a tile; those of expert
e begin with tile e * tiles of one expert) it calls

    offsets = row_offsets(tiles_left, num_blocks, FORMAT, BN)
    record = first_record(words, first_tile, num_blocks, FORMAT)
    for _ in range(num_blocks):
        acc = add_block_product(acc, record, offsets, x, sums, x_offsets, mask, FORMAT, BN, R)
        record, x, sums = record + FORMAT.record_words, x + 256, sums + 32

or `product(...)`, which is that over some of the blocks. acc is (BN, R) float32, weights on the M side. x: the `values`
of HalfRows; sums: the same pointer plus 256 * num_blocks, where a row's sums begin; x_offsets (R,): of rows, 288 *
num_blocks from one to the next. Rows with a false mask are not read and count as zeros. The caller multiplies with the
rows' exponents after the last block. tiles_left: of the matrix, from first_tile on; rows past it get its last tile's
weights, and are the caller's not to store. BN is a multiple of 16 and at least 16 * num_warps, or warps repeat each
other's work. `words` has to be seen to be 16-byte aligned: an offset into it ends in a multiplication by 4 or more.

Every kernel that multiplies goes through `add_block_product`, so that a row has the same bits in all of them.
"""

import triton
import triton.language as tl

from stepahead.backends.cuda.formats.format import Levels, Mins, Scales

LINEAR = tl.constexpr(int(Levels.LINEAR))
E2M1 = tl.constexpr(int(Levels.E2M1))
IQ4 = tl.constexpr(int(Levels.IQ4))
IQ3 = tl.constexpr(int(Levels.IQ3))
IQ2 = tl.constexpr(int(Levels.IQ2))
SIGNED = tl.constexpr(int(Scales.SIGNED))
NIBBLES = tl.constexpr(int(Scales.NIBBLES))
HALF = tl.constexpr(int(Scales.HALF))
EXPONENT = tl.constexpr(int(Scales.EXPONENT))
NONE = tl.constexpr(int(Scales.NONE))
NO_MINS = tl.constexpr(int(Mins.NONE))
HALF_MINS = tl.constexpr(int(Mins.HALF))
SMALL = tl.constexpr(16384.0)  # weights are multiplied as codes times 2^-14, the smallest normal half


@triton.jit
def row_offsets(tiles_left, num_blocks, FORMAT: tl.constexpr, BN: tl.constexpr):
    """(BN,) int32: where the records of the rows' tiles begin, in words from the first one's."""
    WORDS: tl.constexpr = FORMAT.record_words
    return tl.minimum(tl.arange(0, BN) // 16, tiles_left - 1) * (num_blocks * WORDS)


@triton.jit
def first_record(words, first_tile, num_blocks, FORMAT: tl.constexpr):
    """Pointer to tile `first_tile`'s record of K block 0."""
    WORDS: tl.constexpr = FORMAT.record_words
    return words + first_tile.to(tl.int64) * num_blocks * WORDS


@triton.jit
def product(
    words, first_tile, tiles_left, num_blocks, first_block, end_block, x, x_offsets, mask,
    FORMAT: tl.constexpr, BN: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """(BN, R) float32 over some K blocks, but for the rows' exponents."""
    WORDS: tl.constexpr = FORMAT.record_words
    offsets = row_offsets(tiles_left, num_blocks, FORMAT, BN)
    record = first_record(words, first_tile, num_blocks, FORMAT) + first_block * WORDS
    sums = x + num_blocks * 256 + first_block * 32
    x += first_block * 256
    acc = tl.zeros((BN, R), tl.float32)
    for _ in range(first_block, end_block):
        acc = add_block_product(acc, record, offsets, x, sums, x_offsets, mask, FORMAT, BN, R)
        record += WORDS
        x += 256
        sums += 32
    return acc


@triton.jit
def add_block_product(
    acc, record, offsets, x, sums, x_offsets, mask,
    FORMAT: tl.constexpr, BN: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """acc + weights times x over the 256 inputs of one K block."""
    SCALES: tl.constexpr = FORMAT.scales
    if SCALES == HALF or SCALES == EXPONENT:  # noqa: PLR1714, SIM109 - Triton's, not Python's
        acc = _add_scaled_groups(acc, record, offsets, x, x_offsets, mask, FORMAT, BN, R)
    else:
        acc = _add_scaled_block(acc, record, offsets, x, x_offsets, mask, FORMAT, BN, R)
    MINS: tl.constexpr = FORMAT.mins
    if MINS != NO_MINS:
        acc = _add_mins(acc, record, offsets, sums, x_offsets, mask, FORMAT, BN, R)
    return acc


@triton.jit
def _add_scaled_block(
    acc, record, offsets, x, x_offsets, mask, FORMAT: tl.constexpr, BN: tl.constexpr, R: tl.constexpr
):
    """Whole sub-scales: they multiply the codes as halves, and d comes once, after the block."""
    SPAN: tl.constexpr = FORMAT.span
    GROUP: tl.constexpr = FORMAT.group
    SCALES: tl.constexpr = FORMAT.scales
    D_AT: tl.constexpr = FORMAT.d_at
    IS_WIDE: tl.constexpr = R > 16
    rows = offsets + tl.arange(0, BN) % 16
    part = tl.zeros((BN, R), tl.float32)
    for span in tl.static_range(64 // SPAN):
        low, low_after = _low_words(record, offsets, span, FORMAT, BN, SPAN)
        high = _high_words(record, offsets, span, FORMAT, BN, SPAN)
        a = _weights(low, high, 0, FORMAT, BN, SPAN)
        b = _weights(low, high, 1, FORMAT, BN, SPAN)
        if SCALES != NONE:
            scale_a, scale_b = _whole_scales(record, rows, 0, SPAN * span // GROUP, FORMAT)
            a *= scale_a[:, None]
            b *= scale_b[:, None]
        if IS_WIDE:  # the same products in the same order, with fewer of them waiting in registers
            xs = _inputs(x, x_offsets, mask, SPAN * span, SPAN, 2 * SPAN)
            part = tl.dot(_side_by_side(a, b, BN, SPAN), xs, part)
        c = _weights(low_after, high, 2, FORMAT, BN, SPAN)
        d = _weights(low_after, high, 3, FORMAT, BN, SPAN)
        if SCALES != NONE:
            scale_c, scale_d = _whole_scales(record, rows, 2, SPAN * span // GROUP, FORMAT)
            c *= scale_c[:, None]
            d *= scale_d[:, None]
        if IS_WIDE:
            xs = _inputs(x, x_offsets, mask, 128 + SPAN * span, SPAN, 2 * SPAN)
            part = tl.dot(_side_by_side(c, d, BN, SPAN), xs, part)
        else:
            xs = _inputs(x, x_offsets, mask, SPAN * span, SPAN, 4 * SPAN)
            part = tl.dot(_four_side_by_side(a, b, c, d, BN, SPAN), xs, part)
    scale = tl.load((record + D_AT).to(tl.pointer_type(tl.float16)) + (rows + offsets))
    return tl.fma(part, (scale.to(tl.float32) * _unit(FORMAT))[:, None].broadcast_to(BN, R), acc)


@triton.jit
def _add_scaled_groups(
    acc, record, offsets, x, x_offsets, mask, FORMAT: tl.constexpr, BN: tl.constexpr, R: tl.constexpr
):
    """A float a group: it comes after the group."""
    SPAN: tl.constexpr = FORMAT.span
    GROUP: tl.constexpr = FORMAT.group
    SPANS: tl.constexpr = GROUP // SPAN  # of a group, 1 or 2
    rows = offsets + tl.arange(0, BN) % 16
    for group in tl.static_range(64 // GROUP):
        low, low_after = _low_words(record, offsets, SPANS * group, FORMAT, BN, SPAN)
        high = _high_words(record, offsets, SPANS * group, FORMAT, BN, SPAN)
        if SPANS == 2:
            low_2, low_after_2 = _low_words(record, offsets, 2 * group + 1, FORMAT, BN, SPAN)
            high_2 = _high_words(record, offsets, 2 * group + 1, FORMAT, BN, SPAN)
        for chunk in tl.static_range(4):
            weights = _weights(low if chunk < 2 else low_after, high, chunk, FORMAT, BN, SPAN)
            part = tl.dot(weights, _inputs(x, x_offsets, mask, 64 * chunk + GROUP * group, SPAN, SPAN))
            if SPANS == 2:
                weights = _weights(low_2 if chunk < 2 else low_after_2, high_2, chunk, FORMAT, BN, SPAN)
                xs = _inputs(x, x_offsets, mask, 64 * chunk + GROUP * group + SPAN, SPAN, SPAN)
                part = tl.dot(weights, xs, part)
            scale = _float_scale(record, rows, (64 // GROUP) * chunk + group, FORMAT)
            acc = tl.fma(part, scale[:, None].broadcast_to(BN, R), acc)
    return acc


@triton.jit
def _inputs(x, x_offsets, mask, START: tl.constexpr, SPAN: tl.constexpr, K: tl.constexpr):
    """(K, R): spans of inputs from START on, 64 from one to the next."""
    k = tl.arange(0, K)
    inputs = START + 64 * (k // SPAN) + k % SPAN
    return tl.load(x + x_offsets[None, :] + inputs[:, None], mask=mask[None, :], other=0.0)


@triton.jit
def _add_mins(acc, record, offsets, sums, x_offsets, mask, FORMAT: tl.constexpr, BN: tl.constexpr, R: tl.constexpr):
    """Minima times the sums of 16 inputs each; a sum is a half and the rest of it, another."""
    MINS: tl.constexpr = FORMAT.mins
    PER_GROUP: tl.constexpr = FORMAT.group // 16
    rows = offsets + tl.arange(0, BN) % 16
    group = tl.arange(0, 16) // PER_GROUP
    if MINS == HALF_MINS:
        MINS_AT: tl.constexpr = FORMAT.mins_at
        words = tl.load(record + MINS_AT + rows[:, None] + (16 * (group // 2))[None, :])
        bits = (words >> (16 * (group % 2))[None, :]) & 0xFFFF
        minima = _halves(bits * 0x10001, BN, 32)
        factor = tl.full((BN,), 16.0, tl.float32)
    else:
        SCALES: tl.constexpr = FORMAT.scales
        AT: tl.constexpr = FORMAT.scales_at if FORMAT.scales == 3 else FORMAT.mins_at
        DMIN_AT: tl.constexpr = FORMAT.dmin_at
        words = tl.load(record + AT + rows[:, None] + (16 * (group // 4))[None, :])
        if SCALES == NIBBLES:
            bits = (words >> (8 * (group % 4) + 4)[None, :]) & 15
        else:
            bits = (words >> (8 * (group % 4))[None, :]) & 255
        minima = _halves(bits * 0x10001 | 0x64006400, BN, 32) - 1024.0
        dmin = tl.load((record + DMIN_AT).to(tl.pointer_type(tl.float16)) + (rows + offsets))
        factor = dmin.to(tl.float32) * -16.0
    xs = tl.load(sums + x_offsets[None, :] + tl.arange(0, 32)[:, None], mask=mask[None, :], other=0.0)
    return tl.fma(tl.dot(minima, xs), factor[:, None].broadcast_to(BN, R), acc)


@triton.jit
def _low_words(record, offsets, span: tl.constexpr, FORMAT: tl.constexpr, BN: tl.constexpr, SPAN: tl.constexpr):
    """Two tiles (BN, SPAN / 2): words in which the codes of chunks 0 and 1, and of 2 and 3, stand at the same bits."""
    BITS: tl.constexpr = FORMAT.low_bits
    if BITS == 8:
        pair = (SPAN // 2) * span + tl.arange(0, SPAN // 2)
        at = (offsets + (tl.arange(0, BN) % 16) * 64)[:, None] + pair[None, :]
        return tl.load(record + at), tl.load(record + 32 + at)
    else:  # noqa: RET505
        words = _plane_words(record, offsets, span, BITS, BN, SPAN)
        return words, words >> (2 * BITS)


@triton.jit
def _high_words(record, offsets, span: tl.constexpr, FORMAT: tl.constexpr, BN: tl.constexpr, SPAN: tl.constexpr):
    BITS: tl.constexpr = FORMAT.high_bits
    AT: tl.constexpr = FORMAT.high_at
    if BITS == 0:
        return 0
    else:  # noqa: RET505 - Triton looks at what follows a return, too
        return _plane_words(record + AT, offsets, span, BITS, BN, SPAN)


@triton.jit
def _plane_words(plane, offsets, span: tl.constexpr, BITS: tl.constexpr, BN: tl.constexpr, SPAN: tl.constexpr):
    """(BN, SPAN / 2): the words of the span's pairs, the code of chunk c at bit BITS * c."""
    COUNT: tl.constexpr = SPAN // 2
    WORDS: tl.constexpr = 8 * BITS
    FIRST: tl.constexpr = COUNT * span % WORDS
    TURN: tl.constexpr = COUNT * span // WORDS
    at = (offsets + (tl.arange(0, BN) % 16) * WORDS)[:, None] + (FIRST + tl.arange(0, COUNT))[None, :]
    return tl.load(plane + at) >> (4 * BITS * TURN)


@triton.jit
def _weights(low, high, chunk: tl.constexpr, FORMAT: tl.constexpr, BN: tl.constexpr, SPAN: tl.constexpr):
    """(BN, SPAN) float16: level(code) - offset, times 2^-14 where the levels are linear or E2M1; see `_unit`.

    A code under a mask is the bits of a half that is the code times a power of two, too small to be a normal number:
    one multiplication makes it one, without a conversion.
    """
    LEVELS: tl.constexpr = FORMAT.levels
    OFFSET: tl.constexpr = FORMAT.offset
    LOW: tl.constexpr = FORMAT.low_bits
    AT: tl.constexpr = LOW * (chunk % 2) % 8
    if LEVELS == E2M1:  # sign, two bits of exponent, one of mantissa: to their places in a half
        bits = ((low << (9 - AT)) & 0x0E000E00) | ((low << (12 - AT)) & -0x7FFF8000)
        weights = _halves(bits, BN, SPAN) * 2.0
    else:
        codes = _halves(_code_bits(low, high, chunk, FORMAT), BN, SPAN)
        NORMAL: tl.constexpr = 1024.0 / (1 << AT)
        if LEVELS == IQ4:
            weights = _iq4_levels(codes * NORMAL)
        elif LEVELS != LINEAR:
            weights = _codebook_levels(codes * NORMAL, LEVELS)
        elif OFFSET == 0:
            weights = codes * NORMAL
        else:
            offset = tl.full((BN, SPAN), -OFFSET / SMALL, tl.float16)
            weights = tl.fma(codes, tl.full((BN, SPAN), NORMAL, tl.float16), offset)
    return weights


@triton.jit
def _unit(FORMAT: tl.constexpr):
    """What scales are multiplied with, because `_weights` gives smaller numbers than the type means."""
    UNIT: tl.constexpr = FORMAT.unit
    LEVELS: tl.constexpr = FORMAT.levels
    IS_SMALL: tl.constexpr = (LEVELS == LINEAR) | (LEVELS == E2M1)
    return UNIT * SMALL if IS_SMALL else UNIT


@triton.jit
def _code_bits(low, high, chunk: tl.constexpr, FORMAT: tl.constexpr):
    """The codes of a chunk at bit AT of `_weights`, low and high bits together, nothing else."""
    LOW: tl.constexpr = FORMAT.low_bits
    HIGH: tl.constexpr = FORMAT.high_bits
    AT: tl.constexpr = LOW * (chunk % 2) % 8
    LOW_MASK: tl.constexpr = (((1 << LOW) - 1) << AT) * 0x10001
    if LOW == 8:
        low = low >> (8 * (chunk % 2))
    bits = low & LOW_MASK
    if HIGH != 0:
        HIGH_MASK: tl.constexpr = (((1 << HIGH) - 1) << (AT + LOW)) * 0x10001
        LEFT: tl.constexpr = AT + LOW - HIGH * chunk
        if LEFT >= 0:
            bits |= (high << LEFT) & HIGH_MASK
        else:
            bits |= (high >> -LEFT) & HIGH_MASK
    return bits


@triton.jit
def _halves(pairs, BN: tl.constexpr, SPAN: tl.constexpr):
    """(BN, SPAN / 2) int32, each the bits of two halves, to (BN, SPAN) float16."""
    even = pairs.to(tl.int16).to(tl.float16, bitcast=True)
    odd = (pairs >> 16).to(tl.int16).to(tl.float16, bitcast=True)
    return tl.reshape(tl.join(even, odd), (BN, SPAN))


@triton.jit
def _side_by_side(a, b, BN: tl.constexpr, SPAN: tl.constexpr):
    """Two (BN, SPAN) as one (BN, 2 * SPAN)."""
    return tl.reshape(tl.permute(tl.join(a, b), (0, 2, 1)), (BN, 2 * SPAN))


@triton.jit
def _four_side_by_side(a, b, c, d, BN: tl.constexpr, SPAN: tl.constexpr):
    """Four (BN, SPAN) as one (BN, 4 * SPAN): a dot that is longer waits less often."""
    both = tl.join(tl.join(a, c), tl.join(b, d))
    return tl.reshape(tl.permute(both, (0, 2, 3, 1)), (BN, 4 * SPAN))


@triton.jit
def _whole_scales(record, rows, chunk: tl.constexpr, group: tl.constexpr, FORMAT: tl.constexpr):
    """Two (BN,) float16: of group number `group` in this chunk and in the next."""
    GROUP: tl.constexpr = FORMAT.group
    AT: tl.constexpr = FORMAT.scales_at
    if GROUP == 32:  # a chunk has two, and both chunks have theirs in one word
        pair = _bytes_as_halves(tl.load(record + (AT + 8 * chunk) + rows) >> (8 * group), FORMAT)
        first = pair.to(tl.int16).to(tl.float16, bitcast=True)
        second = (pair >> 16).to(tl.int16).to(tl.float16, bitcast=True)
    else:  # a chunk has four, a word of its own
        word = tl.load(record + (AT + 16 * chunk) + rows) >> (8 * group)
        first = _bytes_as_halves(word, FORMAT).to(tl.int16).to(tl.float16, bitcast=True)
        word = tl.load(record + (AT + 16 * chunk + 16) + rows) >> (8 * group)
        second = _bytes_as_halves(word, FORMAT).to(tl.int16).to(tl.float16, bitcast=True)
    SCALES: tl.constexpr = FORMAT.scales
    ZERO: tl.constexpr = 1152.0 if SCALES == SIGNED else 1024.0
    return first - ZERO, second - ZERO


@triton.jit
def _bytes_as_halves(words, FORMAT: tl.constexpr):
    """The lowest byte of each half of the words (GROUP 16: of the lower half), as a half that is 1024 (SIGNED: 1152)
    more."""
    SCALES: tl.constexpr = FORMAT.scales
    EACH: tl.constexpr = 0x10001 if FORMAT.group == 32 else 1
    if SCALES == NIBBLES:
        halves = (words & (15 * EACH)) | (0x6400 * EACH)
    elif SCALES == SIGNED:
        halves = ((words & (255 * EACH)) ^ (128 * EACH)) | (0x6400 * EACH)
    else:
        halves = (words & (255 * EACH)) | (0x6400 * EACH)
    return halves


@triton.jit
def _float_scale(record, rows, group: tl.constexpr, FORMAT: tl.constexpr):
    """(BN,) float32, times 2^14."""
    SCALES: tl.constexpr = FORMAT.scales
    SCALES_AT: tl.constexpr = FORMAT.scales_at
    if SCALES == HALF:
        bits = tl.load(record + (SCALES_AT + 16 * (group // 2)) + rows) >> (16 * (group % 2))
        scale = bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    else:
        exponent = (tl.load(record + (SCALES_AT + 16 * (group // 4)) + rows) >> (8 * (group % 4))) & 255
        # 2^(exponent - 128); below 2^-126 a bit of the mantissa is the number.
        bits = tl.where(exponent >= 2, (exponent - 1) << 23, 0x00200000 << exponent)
        scale = bits.to(tl.float32, bitcast=True)
    return scale * _unit(FORMAT)


@triton.jit
def _iq4_levels(codes):
    """The level of codes times 2^-14: a polynomial of degree 4 around code 7, of which the last sum, near 1536, rounds
    to whole numbers. It gives all sixteen exactly, fused or not."""
    place = tl.fma(codes, tl.full(codes.shape, SMALL, tl.float16), tl.full(codes.shape, -7.0, tl.float16))
    level = tl.full(codes.shape, 0.0012865066528320312, tl.float16)
    level = tl.fma(level, place, tl.full(codes.shape, 0.07794189453125, tl.float16))
    level = tl.fma(level, place, tl.full(codes.shape, -0.2421875, tl.float16))
    level = tl.fma(level, place, tl.full(codes.shape, 11.609375, tl.float16))
    return tl.fma(level, place, tl.full(codes.shape, 1526.0, tl.float16)) - 1536.0


@triton.jit
def _codebook_levels(codes, LEVELS: tl.constexpr):
    """Of codes times 2^-14: numbers that lie around zero, from their distance to the middle."""
    MIDDLE: tl.constexpr = -7.5 if LEVELS == IQ3 else -2.5
    place = tl.fma(codes, tl.full(codes.shape, SMALL, tl.float16), tl.full(codes.shape, MIDDLE, tl.float16))
    if LEVELS == IQ3:
        more = tl.where(place > 7.0, 0.5, tl.where(place < -7.0, -0.5, 0.0))
        level = place * 2.0 + more.to(tl.float16)
    elif LEVELS == IQ2:
        more = (place * place - 0.25) * 0.5
        level = place * 16.0 + tl.where(place < 0.0, -more, more)
    else:
        more = tl.where(place > 1.0, 4.0, tl.where(place < -1.0, -4.0, 0.0))
        level = place * 2.0 + more.to(tl.float16)
    return level
