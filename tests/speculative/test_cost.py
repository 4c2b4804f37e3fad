"""The cost of passes: what was measured, then what steps tell, and never a figure that would make a row free."""

import numpy as np
import pytest

from stepahead.speculative.cost import MAX_ROWS, CostSeed, HeadCost, PassCost, interpolate
from stepahead.speculative.prices import Prices
from stepahead.speculative.probe import ROWS

DENSE = CostSeed((1, 2, 4, 8, 16), (10.0, 11.0, 13.0, 20.0, 36.0), (0.0,) * 5, 0.0, (1.0, 1.5, 2.0), 0.2, 0.05)
EXPERTS = CostSeed((1, 2, 4, 8), (10.0, 14.0, 22.0, 38.0), (80.0, 155.0, 300.0, 580.0), 0.04, (1.0,), 0.2, 0.05)


def test_between_and_beyond_what_was_measured() -> None:
    assert interpolate((1, 2, 4), (10.0, 12.0, 20.0), 6) == [0.0, 10.0, 12.0, 16.0, 20.0, 24.0, 28.0]
    assert interpolate((1,), (10.0,), 3) == [0.0, 10.0, 20.0, 30.0]
    cost = PassCost(DENSE)
    assert [cost(n) for n in (1, 2, 3, 4, 6, 16)] == pytest.approx([10, 11, 12, 13, 16.5, 36])
    assert cost(100) == pytest.approx(cost(MAX_ROWS) + (100 - MAX_ROWS) * 2.0)


def test_the_level_follows_the_machine_and_ratios_stay() -> None:
    cost = PassCost(DENSE)
    for _ in range(200):
        cost.learn(1, 15.0)
        cost.learn(4, 19.5)
    assert cost(1) == pytest.approx(15.0, rel=0.02)
    assert cost(8) / cost(1) == pytest.approx(2.0, rel=0.15)  # never visited: the seed's ratio, about


def test_a_wrong_seed_is_corrected_where_passes_are_run() -> None:
    cost = PassCost(DENSE)
    for _ in range(600):
        cost.learn(1, 10.0)
        cost.learn(4, 20.0)
    assert cost(4) / cost(1) == pytest.approx(2.0, rel=0.1)


def test_more_rows_never_cost_less() -> None:
    cost, rng = PassCost(EXPERTS), np.random.default_rng(0)
    for _ in range(500):
        rows = int(rng.integers(1, 17))
        cost.learn(rows, float(rng.lognormal(2.5, 1.0)), tuple(np.cumsum(rng.integers(0, 80, rows))))
        costs = [cost(n) for n in range(1, 80)]
        assert all(np.isfinite(costs)) and costs == sorted(costs) and costs[0] > 0


def test_a_disturbed_pass_tells_little() -> None:
    cost = PassCost(DENSE)
    before = cost(1)
    cost.learn(1, 1e6)
    assert cost(1) < 1.06 * before


def test_experts_that_a_text_shares_make_rows_cheaper() -> None:
    cost = PassCost(EXPERTS)
    for _ in range(300):
        cost.learn_growth((80, 110, 130, 145))  # of 4 rows: half of what random tokens touch
    cost.learn(1, 10.0)
    for _ in range(16):
        cost.learn(1, 10.0)
    assert cost(4) == pytest.approx(22.0 - 0.04 * (300 - 145), rel=0.05)
    assert cost(8) < 38.0  # and longer passes in proportion


def test_heads_are_learnt_with_what_they_catch_up() -> None:
    heads = HeadCost(DENSE)
    assert [heads(step) for step in range(5)] == [1.0, 1.5, 2.0, 2.0, 2.0]
    for _ in range(200):
        heads.learn_pass(1, 2.5)
        heads.learn_overhead(3, 0.3)
    assert heads(1) == pytest.approx(2.6, rel=0.02)
    assert heads(0) == pytest.approx(1.1, rel=0.02)
    for _ in range(50):
        heads.learn_catch_up(100, 10.0)
    assert heads.catch_up(300) == pytest.approx(30.0, rel=0.01)


# --- beside prompts ---
def saturating(rows: int) -> float:
    """Milliseconds of a pass whose experts are all read from about 50 rows on."""
    return 0.5 + 8.0 * (1.0 - (15 / 16) ** rows) + 0.03 * rows


SATURATING = CostSeed(ROWS, tuple(map(saturating, ROWS)), (0.0,) * len(ROWS), 0.0, (0.12,), 0.01, 0.01)


def test_beside_a_prompt_a_row_costs_what_it_does_in_passes_that_long() -> None:
    prices = Prices(SATURATING)
    before = prices.of(1).cost
    assert before(520) - before(512) > 1.0  # as experts were still being added
    for rows in (512, 512, 300, 100, 512):
        prices.learn_mixed(1, rows, saturating(rows))
    for cost in (prices.of(1).cost, prices.of(4).cost):  # one machine, whoever decodes
        for rows in (80, 200, 500, 900):
            further = cost(rows + 4) - cost(rows)
            assert further == pytest.approx(4 * 0.03, abs=0.1)
            assert further >= 0.0


def test_one_long_pass_tells_of_those_between() -> None:
    prices = Prices(SATURATING)
    prices.learn_mixed(0, 512, saturating(512))
    cost = prices.of(1).cost
    costs = [cost(rows) for rows in range(1, 600)]
    assert costs == sorted(costs)
    assert cost(512) == pytest.approx(saturating(512), rel=0.1)
    assert cost(104) - cost(100) < 0.3


def test_a_disturbed_long_pass_makes_no_row_dearer_than_in_short_ones() -> None:
    prices = Prices(DENSE)
    cost = prices.of(1).cost
    before = cost(104) - cost(100)
    prices.learn_mixed(1, 512, 1e6)
    assert cost(104) - cost(100) == pytest.approx(before)
    for _ in range(40):
        prices.learn_mixed(1, 512, cost(MAX_ROWS) + 0.5 * before / 4 * (512 - MAX_ROWS))
    assert cost(104) - cost(100) < 0.7 * before


def test_passes_within_the_table_are_not_long() -> None:
    prices = Prices(DENSE)
    prices.learn_mixed(1, MAX_ROWS, 1.0)
    assert prices.of(1).cost(100) == PassCost(DENSE)(100)
