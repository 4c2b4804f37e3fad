"""Gumbel noise from random words: added to logits, it makes their argmax a draw from the softmax of them.

This file knows nothing about where words come from, nor about logits, requests or sequences.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

# u = ((word >> 9) + 0.5) * 2^-23 lies in [2^-24, 1 - 2^-24], and the noise -log(-log(u)) between these two.
GUMBEL_MIN = -math.log(24.0 * math.log(2.0))
GUMBEL_MAX = -math.log(-math.log1p(-(2.0**-24)))


def gumbel_noise(words: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise of 32-bit words, in [GUMBEL_MIN, GUMBEL_MAX].

    float64 throughout: in float32 the largest u rounds to 1, whose noise is infinite, and a token picked by nothing
    but that comes up once in a few hundred draws over a full vocabulary.
    """
    noise = (words >> 9).astype(np.float64)
    noise += 0.5
    noise *= 2.0**-23
    for _ in range(2):
        np.log(noise, out=noise)
        np.negative(noise, out=noise)
    return noise


def least_word(noise: float) -> int:
    """Every word below it has less than `noise`; so have a few above it."""
    if noise <= GUMBEL_MIN:
        return 0
    return max(0, int(math.exp(-math.exp(-noise)) * 2.0**23 - 1.0)) << 9
