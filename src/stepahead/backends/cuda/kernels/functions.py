"""What several kernels compute alike: sigmoid, and the half-precision form of a row."""

import triton
import triton.language as tl

HALF_PADDING = 256
"""HalfRows are as wide as a multiple of it; the columns behind a row's own are zeros."""


def padded_width(width: int) -> int:
    """Of HalfRows of rows of `width`."""
    return -(-width // HALF_PADDING) * HALF_PADDING


def half_stride(width: int) -> int:
    """Of the `values` of HalfRows: from row to row."""
    return padded_width(width) // 8 * 9


def row_block(width: int) -> int:
    """The power of two that holds a row and its padding."""
    return max(HALF_PADDING, triton.next_power_of_2(width))


@triton.jit
def sigmoid(z):
    return tl.div_rn(1.0, 1.0 + tl.exp(-z))


@triton.jit
def magnitude_bits(x):
    """Of float32, as integers in the same order; a NaN is above all numbers, and no comparison has to know it."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def is_nan(x):
    return magnitude_bits(x) > 0x7F800000


@triton.jit
def powers_of_two(peak_bits):
    """(up, down): up brings magnitudes of which `peak_bits` is the largest to below 2^15, down takes them back.

    A peak from 2^-112 on comes to 2^14 or more; without one, and with Inf or NaN, the powers are still finite.
    """
    exponent = tl.minimum(tl.maximum(peak_bits >> 23, 15), 254)
    up = ((268 - exponent) << 23).to(tl.float32, bitcast=True)
    down = ((exponent - 14) << 23).to(tl.float32, bitcast=True)
    return up, down


@triton.jit
def store_half_row(y, row, columns, halves, exponents, PADDED: tl.constexpr):
    """y: a whole row, zeros behind its width; columns from 0 on, a power of two of them."""
    peak = tl.max(magnitude_bits(y))
    up, down = powers_of_two(peak)
    half = (y * up).to(tl.float16)
    halves += row * (PADDED // 8 * 9)
    tl.store(halves + columns, half, mask=columns < PADDED)
    tl.store(exponents + row, down)
    # Sums of integers, so that no order of adding shows; of a row that has no sums they do not matter.
    whole = (tl.where(peak < 0x7F800000, half.to(tl.float32), 0.0) * 4096.0).to(tl.int32)
    mean = tl.sum(tl.reshape(whole, (whole.shape[0] // 16, 16)), axis=1).to(tl.float32) * (1 / 65536)
    high = mean.to(tl.float16)
    pairs = tl.join(high, (mean - high.to(tl.float32)).to(tl.float16))
    places = tl.arange(0, whole.shape[0] // 8)
    tl.store(halves + PADDED + places, tl.reshape(pairs, (whole.shape[0] // 8,)), mask=places < PADDED // 8)
