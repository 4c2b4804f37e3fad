"""Random words: the published numbers, and the counter they are taken from."""

import numpy as np
import pytest

from stepahead.backends.reference.philox import philox4x32, token_words


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_numbers(counter: str, key: str, expected: str) -> None:
    # Random123's kat_vectors, "philox4x32 10".
    words = [np.array([int(word, 16)], np.uint64) for word in counter.split()]
    k0, k1 = (int(word, 16) for word in key.split())
    assert " ".join(f"{int(word[0]):08x}" for word in philox4x32(tuple(words), (k0, k1))) == expected


def test_words_are_those_of_the_documented_counter() -> None:
    seed, position, token_id = 0x0123456789ABCDEF, (3 << 32) + 77, 128_895
    counter = tuple(np.array([word], np.uint64) for word in (token_id // 4, 77, 3, 0))
    expected = philox4x32(counter, (0x89ABCDEF, 0x01234567))[token_id % 4][0]
    assert token_words(seed, position, np.array([token_id]))[0] == expected


def test_a_word_depends_on_the_token_not_on_who_stands_beside_it() -> None:
    everyone = token_words(5, 9, np.arange(1003))
    for ids in ([0, 3, 4, 500, 501, 1002], [1, 0, 3, 2], [7, 7, 4, 900, 5, 6], []):
        some = np.array(ids, np.int64)
        assert (token_words(5, 9, some) == everyone[some]).all()
    assert len(np.unique(everyone)) > 1000
    assert not np.array_equal(everyone, token_words(5, 10, np.arange(1003)))
    assert not np.array_equal(everyone, token_words(6, 9, np.arange(1003)))
