"""token_words: the same random words from every backend, whatever ids are asked for side by side."""

import numpy as np
import pytest
from cpu_cases import BACKENDS

from stepahead.backends.reference.ops import ReferenceBackend

REFERENCE = ReferenceBackend()


@pytest.mark.parametrize(("seed", "position"), [(0, 0), (5, 77), (2**64 - 1, 2**31), (0x0123456789ABCDEF, 3 << 32 | 7)])
def test_token_words(seed: int, position: int) -> None:
    rng = np.random.default_rng(0)
    for ids in (
        np.arange(2050),
        np.flatnonzero(rng.random(5000) < 0.3),
        rng.permutation(300),
        rng.integers(0, 20, 200),
        np.array([128_895, 2**31 - 1]),
        np.empty(0, np.int64),
    ):
        expected = REFERENCE.token_words(seed, position, ids)
        for b in BACKENDS[:3]:
            words = b.token_words(seed, position, ids)
            assert words.dtype == np.uint32 and words.tolist() == expected.tolist()


def test_other_ids_than_int64_are_refused() -> None:
    with pytest.raises(TypeError):
        BACKENDS[0].token_words(1, 1, np.arange(3, dtype=np.int32))
