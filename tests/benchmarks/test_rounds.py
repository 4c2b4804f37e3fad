"""From the chances of draft tokens to what rounds accept: by hand, by enumeration, and the error of the mean."""

import itertools

import numpy as np
import pytest

from benchmarks.rounds import Counts, count, cumulative, reach, shares, standard_error, tokens_per_step

NAN = np.nan


def test_a_round_begins_behind_the_token_that_replaced_a_wrong_one() -> None:
    # Two drafted at places 0, 3 and 4; place 4 has room for one, the last for none.
    chances = np.array([[1, 1], [0, 1], [1, 0], [0, 1], [1, NAN], [NAN, NAN]])
    reached = reach(chances)
    assert reached.tolist() == [[1, 1], [0, 0], [0, 0], [1, 0], [1, 0], [0, 0]]
    counts = count(reached, chances)
    assert counts.reached.tolist() == [3, 1]
    assert counts.accepted.tolist() == [2, 1]
    assert shares([counts]) == pytest.approx([2 / 3, 1])
    assert cumulative([counts]) == pytest.approx([2 / 3, 2 / 3])
    assert tokens_per_step([counts]) == pytest.approx([7 / 3])


def test_chances_are_the_mean_of_all_coins() -> None:
    chances = np.array([[0.3, 0.9], [0.5, 0.2], [0.8, NAN], [NAN, NAN]])
    known = np.argwhere(~np.isnan(chances))
    mean = np.zeros_like(chances)
    for coins in itertools.product([0.0, 1.0], repeat=len(known)):
        thrown, weight = chances.copy(), 1.0
        for (place, index), coin in zip(known, coins, strict=True):
            thrown[place, index] = coin
            weight *= chances[place, index] if coin else 1.0 - chances[place, index]
        mean += weight * reach(thrown)
    assert reach(chances) == pytest.approx(mean)


def test_the_error_is_that_of_a_mean_over_texts() -> None:
    accepted = np.array([1.0, 4.0, 2.0, 5.0])
    texts = [Counts(np.array([10.0]), np.array([number])) for number in accepted]
    assert standard_error(shares, texts) == pytest.approx([accepted.std(ddof=1) / 10 / 2])
    assert np.isnan(standard_error(shares, texts[:1])).all()


def test_what_was_never_reached_was_never_accepted() -> None:
    assert shares([Counts(np.array([2.0, 0.0]), np.array([0.0, 0.0]))]).tolist() == [0, 0]
