"""Weights of any quantised type with kernels, without a quantiser: random codes, and scales that give them a size."""

import numpy as np

from stepahead.gguf import QuantType, dequantize

SCALE_AT = {
    **dict.fromkeys(("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "IQ4_NL", "IQ4_XS", "IQ3_XXS"), 0),
    "Q2_K": 80,
    "Q3_K": 108,
    "Q6_K": 208,
}
"""Where a block keeps its binary16 scale, in bytes; a minimum's follows it."""
MINIMUM = {"Q4_1": -7.5, "Q5_1": -15.5, "Q2_K": 1.5, "Q4_K": 7.5, "Q5_K": 15.5}
"""The second scale that makes the mean of random codes zero, beside a scale of 1."""


def set_scales(blocks: np.ndarray, type: QuantType, scale: float) -> None:
    """Give every block of (n, block_bytes) this scale; MXFP4 takes the nearest power of two."""
    if type is QuantType.MXFP4:
        blocks[:, 0] = 128 + round(np.log2(scale))
        return
    scales = np.array([scale, scale * MINIMUM.get(type.name, 0)], np.float16)[: 1 + (type.name in MINIMUM)]
    at = SCALE_AT[type.name]
    blocks[:, at : at + scales.nbytes] = scales.view(np.uint8)


def random_codes(rng: np.random.Generator, type: QuantType, shape: tuple[int, ...], size: float) -> np.ndarray:
    """(…, row_bytes) bytes of weights with a root mean square of about `size` and a mean of about zero."""
    blocks = rng.integers(0, 256, (int(np.prod(shape)) // type.block_size, type.block_bytes), np.uint8)
    set_scales(blocks, type, 1.0)
    rms = np.sqrt((dequantize(blocks, type).astype(np.float64) ** 2).mean())
    set_scales(blocks, type, size / rms)
    return blocks.reshape(*shape[:-1], type.row_bytes(shape[-1]))
