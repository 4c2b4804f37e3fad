"""Gumbel noise: its ends, its distribution, and the words that cannot reach a noise."""

import math

import numpy as np
import pytest

from stepahead.backends.reference.philox import token_words
from stepahead.engine.gumbel import GUMBEL_MAX, GUMBEL_MIN, gumbel_noise, least_word


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
@pytest.mark.parametrize(("word", "expected"), [(0, GUMBEL_MIN), (0xFFFFFFFF, GUMBEL_MAX)])
def test_noise_is_finite_at_both_ends(dtype: type, word: int, expected: float) -> None:
    words = np.array([word], dtype)
    assert gumbel_noise(words)[0] == pytest.approx(expected, rel=1e-12)
    assert words[0] == word


def test_noise_is_standard_gumbel() -> None:
    noise = gumbel_noise(token_words(3, 0, np.arange(200_000)))
    assert noise.mean() == pytest.approx(0.5772, abs=0.01)
    assert noise.var() == pytest.approx(math.pi**2 / 6, abs=0.03)


def test_no_word_below_the_least_has_the_noise() -> None:
    words = np.concatenate([np.arange(64), 2**32 - 1 - np.arange(64), np.arange(0, 2**32, 7_654_321)]).astype(np.uint64)
    noise = gumbel_noise(words)
    for wanted in [-1000.0, *np.linspace(-4.0, 18.0, 221).tolist(), *noise[:128].tolist(), math.inf]:
        least = least_word(wanted)
        assert 0 <= least < 2**32
        assert (noise[words < least] < wanted).all()
        # Nor are many let through: two steps of 2^-23.
        assert (noise[words >= least + 2 * 512] >= wanted).all() or wanted > GUMBEL_MAX
