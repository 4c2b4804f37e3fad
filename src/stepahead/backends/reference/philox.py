"""Position-keyed random words: Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011).

A word is a pure function of (seed, position, token id), so it does not matter who asks for it, draft or target, in
which order, or beside which other request. This file knows nothing about logits, requests or sequences.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
"""32-bit words, kept in 64 bits so that a product of two fits."""

_ROUNDS = 10
_MULTIPLIERS = np.array(((0xD2511F53,), (0xCD9E8D57,)), np.uint64)
_WEYL = np.array(((0x9E3779B9,), (0xBB67AE85,)), np.uint64)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox4x32(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10 of many counters under one key."""
    c0, c1, c2, c3 = counter
    # The words that are multiplied, and those that are not: (2, n) each, so that a round is five operations of numpy.
    factors, others = np.stack((c0, c2)), np.stack((c1, c3))
    for round_key in _round_keys(*key):
        products = factors * _MULTIPLIERS
        factors = (products >> _SHIFT)[::-1]
        factors ^= others
        factors ^= round_key
        products &= _LOW
        others = products[::-1]
    return factors[0], others[0], factors[1], others[1]


@lru_cache(maxsize=64)
def _round_keys(k0: int, k1: int) -> Words:
    """(rounds, 2, 1): a sequence's seed is one key for all its draws."""
    first = np.array(((k0,), (k1,)), np.uint64)
    return (first + _WEYL * np.arange(_ROUNDS, dtype=np.uint64)[:, None, None]) & _LOW


def token_words(seed: int, position: int, token_ids: npt.NDArray[np.int64]) -> Words:
    """One 32-bit word for each of `token_ids`, (n,). Ids of one block that lie side by side share its rounds.

    Key: the seed's low and high word. Counter: (token id / 4, position low, position high, 0); the token takes word
    token id % 4, so a full vocabulary costs a quarter of the blocks.
    """
    blocks = token_ids >> 2
    is_first = np.empty(blocks.shape, dtype=np.bool_)
    is_first[:1] = True
    np.not_equal(blocks[1:], blocks[:-1], out=is_first[1:])
    unique = blocks[is_first].astype(np.uint64)
    low = np.full_like(unique, position & 0xFFFFFFFF)
    high = np.full_like(unique, position >> 32)
    words = philox4x32((unique, low, high, np.zeros_like(unique)), (seed & 0xFFFFFFFF, seed >> 32))
    in_order = np.stack(words, axis=1).reshape(-1)
    chosen: Words = in_order[4 * np.cumsum(is_first) - 4 + (token_ids & 3)]
    return chosen
