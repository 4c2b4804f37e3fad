"""Calibrated acceptance: rates come to the truth, rise with the bin, and follow one text beside the others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepahead.speculative.calibration import NUM_BINS, Calibration, Recent, margin_bin, match_bin, monotone


def test_bins_rise_and_none_is_out_of_range() -> None:
    for number in (margin_bin, match_bin):
        bins = [number(value) for value in np.linspace(0, 500, 5001)]
        assert bins == sorted(bins)
        assert (bins[0], bins[-1]) == (0, NUM_BINS - 1)
    assert margin_bin(float("inf")) == NUM_BINS - 1


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 10)), min_size=1, max_size=30))
def test_monotone_is_the_nearest_rising_sequence(pairs: list[tuple[float, float]]) -> None:
    values, weights = [list(part) for part in zip(*pairs, strict=True)]
    fitted = monotone(values, weights)
    assert fitted == sorted(fitted)
    assert np.dot(fitted, weights) == pytest.approx(np.dot(values, weights))

    def distance(candidate: list[float]) -> float:
        return float(np.dot((np.array(candidate) - values) ** 2, weights))

    rng = np.random.default_rng(0)
    for _ in range(20):  # no rising neighbour is nearer
        other = sorted(np.clip(np.array(fitted) + rng.normal(0, 0.05, len(fitted)), 0, 1))
        assert distance(fitted) <= distance(other) + 1e-9


def test_rates_come_to_the_truth() -> None:
    truth = np.linspace(0.1, 0.95, NUM_BINS)
    calibration, rng = Calibration(0.5), np.random.default_rng(1)
    for _ in range(20000):
        number = int(rng.integers(NUM_BINS))
        calibration.count(number, bool(rng.random() < truth[number]))
    assert np.abs(np.array(calibration.rates) - truth).max() < 0.08
    assert calibration.mean == pytest.approx(truth.mean(), abs=0.03)
    assert sum(calibration.weights) == pytest.approx(1.0)


def test_a_few_observations_move_the_prior_and_bins_borrow_from_the_mean() -> None:
    calibration = Calibration(0.5)
    for _ in range(4):
        calibration.count(3, False)
    assert calibration.mean == pytest.approx(1 / 6, rel=0.01)
    assert max(calibration.rates) < 0.25  # bins never seen, too


def test_what_is_old_is_forgotten() -> None:
    calibration = Calibration(0.5)
    for is_hit in (False, True):
        for _ in range(3000):
            calibration.count(5, is_hit)
    assert calibration.rates[5] > 0.9


def test_a_text_of_its_own_shifts_the_odds_of_every_bin() -> None:
    calibration, rng = Calibration(0.5), np.random.default_rng(2)
    for _ in range(4000):
        number = int(rng.integers(NUM_BINS))
        calibration.count(number, bool(rng.random() < number / NUM_BINS))
    same, good, bad = Recent(calibration), Recent(calibration), Recent(calibration)
    for _ in range(60):
        good.count(True)
        bad.count(False)
    assert same.rates() == pytest.approx(calibration.rates)
    assert all(low < middle < high for low, middle, high in zip(bad.rates(), same.rates(), good.rates(), strict=True))
    assert all(0 <= rate <= 1 for rate in good.rates() + bad.rates())


def test_a_source_that_never_failed_stays_finite() -> None:
    calibration = Calibration(0.5)
    recent = Recent(calibration)
    for _ in range(5000):
        calibration.count(0, True)
        recent.count(True)
    assert 0.9 < recent.rate(0) <= 1.0
    assert 0.5 < recent.rate(15) <= 1.0
