"""The arithmetic of expected gains, against figures worked out by hand."""

import pytest

from stepahead.diagnosis.gain import Overhead, draft_ms, expectations, pass_ms
from stepahead.speculative.cost import CostSeed

DENSE = CostSeed((1, 2, 4), (10.0, 12.0, 14.0), (0.0, 0.0, 0.0), 0.0, (1.0, 2.0, 3.0), 0.5, 0.1)
SPARSE = CostSeed((1, 2, 4), (10.0, 14.0, 20.0), (8.0, 16.0, 30.0), 0.5, (1.0,), 0.0, 0.0)

NONE = Overhead()


def test_depth_pays_by_the_tokens_and_costs_by_rows_and_heads():
    one, two, three = expectations(DENSE, (0.8, 0.6, 0.5), {}, NONE)
    assert one.cycle_ms == pytest.approx(12.0 + 1.0 + 0.5 * 0.8)
    assert one.gain == pytest.approx(10.0 * 1.8 / one.cycle_ms)
    assert two.cycle_ms == pytest.approx(13.0 + 1.0 + 2.0 + 0.5 * 2 * 1.4), "three rows lie between two and four"
    assert three.tokens_per_cycle == pytest.approx(2.9)
    assert three.cycle_ms == pytest.approx(14.0 + 6.0 + 0.5 * 3 * 1.9)


def test_drafts_that_are_never_right_only_cost():
    assert [one.gain for one in expectations(DENSE, (0.0, 0.0), {}, NONE)] == pytest.approx([10 / 13, 10 / 16])
    assert expectations(DENSE, (), {}, NONE) == ()


def test_a_single_head_is_used_again():
    assert draft_ms(SPARSE, 3, 1.0) == 3.0


def test_shared_experts_make_a_pass_cheaper_and_never_cheaper_than_one_row():
    assert pass_ms(SPARSE, 2, {}) == 14.0
    assert pass_ms(SPARSE, 2, {2: 1.5}) == pytest.approx(14.0 - 0.5 * 4)
    assert pass_ms(SPARSE, 2, {2: 2.5}) == pytest.approx(14.0 + 0.5 * 4)
    assert pass_ms(SPARSE, 2, {2: 0.1}) == 10.0


def test_what_a_step_takes_beyond_its_passes_makes_drafts_cheaper_and_what_a_draft_takes_makes_them_dearer():
    plain = expectations(DENSE, (0.5,), {}, NONE)[0]
    step = expectations(DENSE, (0.5,), {}, Overhead(step_ms=5.0))[0]
    assert step.cycle_ms == pytest.approx(plain.cycle_ms + 5.0)
    assert step.gain == pytest.approx(1.5 * 15.0 / step.cycle_ms)
    assert step.gain > plain.gain
    assert expectations(DENSE, (0.5, 0.0), {}, Overhead(draft_ms=2.0))[1].cycle_ms == pytest.approx(
        expectations(DENSE, (0.5, 0.0), {}, NONE)[1].cycle_ms + 4.0
    )
