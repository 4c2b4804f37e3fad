"""Activations as integer kernels see them: int8 in blocks, one float32 scale each (docs/numerics.md)."""

import numpy as np

from stepahead.backends.base import Floats
from stepahead.gguf.quants import QuantType

_OF_32 = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "MXFP4")
_OF_256 = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ3_XXS")
INT8_BLOCK = {QuantType[name]: QuantType[name].block_size for name in _OF_32 + _OF_256}
"""Types that the CPU backend multiplies as integers, and the activations' block; all others see float32."""
HALF_MIN, HALF_MAX = np.float32(2.0**-14), np.float32(65504.0)
"""The normal halves: scales of blocks of 32 among them are rounded to one, as llama.cpp stores them."""


def round_trip(x: Floats, type: QuantType) -> Floats:
    """x (num_rows, width) quantised for a matrix of `type` and back: float32 of the same shape."""
    block = INT8_BLOCK.get(type)
    if block is None:
        return x
    blocks = x.reshape(-1, block)
    peak = np.abs(blocks).max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        return _round_trip(blocks, peak, block).reshape(x.shape)


def _round_trip(blocks: Floats, peak: Floats, block: int) -> Floats:
    inverse = np.divide(np.float32(127.0), peak, out=np.zeros_like(peak), where=peak > 0)
    values = np.rint(blocks * inverse)
    scale = peak / np.float32(127.0)
    if block == 32:
        is_half = (scale >= HALF_MIN) & (scale <= HALF_MAX)
        scale = np.where(is_half, scale.astype(np.float16).astype(np.float32), scale)
    restored: Floats = (values * scale).astype(np.float32)
    return restored
