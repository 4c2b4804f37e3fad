"""The price of a draft token, against brute force; and how deep a request may draft."""

import itertools

import numpy as np
import pytest

from stepahead.engine.params import Speculation
from stepahead.errors import RequestError
from stepahead.models.model import DraftSpec
from stepahead.speculative.policy import MAX_DRAFT, best_length, plan_chain, resolve_depth, share_rows

THREE = DraftSpec(3, (6, 7, 8), 16)
ONE = DraftSpec(1, (6,), 16, is_recurrent=True, max_depth=8)
NONE = None


@pytest.mark.parametrize(
    ("mode", "depth", "adaptive", "draft", "expected"),
    [
        ("off", None, True, THREE, 0),
        ("off", 9, True, THREE, 0),
        ("auto", None, True, THREE, MAX_DRAFT),
        ("auto", 2, True, THREE, 2),
        ("auto", 0, True, THREE, 0),
        ("auto", 9, True, THREE, 9),  # of copies, where heads have three
        ("auto", 3, True, NONE, 3),
        ("auto", None, True, NONE, MAX_DRAFT),
        ("auto", None, False, THREE, 3),
        ("auto", 2, False, THREE, 2),
        ("auto", 2, False, NONE, 0),
        ("mtp", None, True, THREE, 3),
        ("mtp", 3, False, THREE, 3),
        ("mtp", 0, False, THREE, 0),
        ("mtp", None, False, ONE, 1),
        ("mtp", 8, False, ONE, 8),
        ("copy", None, True, NONE, MAX_DRAFT),
        ("copy", 4, False, THREE, 4),
    ],
)
def test_depth(mode: str, depth: int | None, adaptive: bool, draft: DraftSpec | None, expected: int) -> None:
    assert resolve_depth(Speculation(mode=mode, depth=depth, adaptive=adaptive), draft) == expected


@pytest.mark.parametrize(("mode", "adaptive"), [("auto", False), ("mtp", True), ("mtp", False)])
def test_beyond_the_limit_is_refused_by_name(mode: str, adaptive: bool) -> None:
    with pytest.raises(RequestError, match=r"depth=4 .* 3 MTP heads .* 1 to 3"):
        resolve_depth(Speculation(mode=mode, depth=4, adaptive=adaptive), THREE)
    with pytest.raises(RequestError, match=r"depth=9 .* one MTP head.* 1 to 8"):
        resolve_depth(Speculation(mode=mode, depth=9, adaptive=adaptive), ONE)


@pytest.mark.parametrize("mode", ["auto", "copy"])
def test_no_draft_is_longer_than_a_pass_is_cheap(mode: str) -> None:
    with pytest.raises(RequestError, match=r"depth=16 is out of range: .*1 to 15"):
        resolve_depth(Speculation(mode=mode, depth=16), THREE)


def test_mtp_needs_heads() -> None:
    with pytest.raises(RequestError, match="needs MTP heads"):
        resolve_depth(Speculation(mode="mtp"), None)


def linear(num_rows: int) -> float:
    return 10.0 + 2.0 * (num_rows - 1)


def stairs(num_rows: int) -> float:
    """Dear between 4 and 8 rows, cheap from there on."""
    return 10.0 + 6.0 * (num_rows > 4) + 0.1 * num_rows


def test_a_token_is_verified_if_it_is_worth_more_than_its_row() -> None:
    # A row costs 2 ms, at .1 tokens/ms .2 tokens.
    assert best_length([0.9, 0.5, 0.21, 0.19], 0.1, linear, 1) == (3, pytest.approx(1.61 - 0.6))
    assert best_length([0.19, 0.18], 0.1, linear, 1) == (0, 0.0)
    assert best_length([], 0.1, linear, 1) == (0, 0.0)


def test_a_long_draft_pays_beyond_a_step_in_the_cost() -> None:
    assert best_length([0.2] * 3, 0.1, stairs, 4) == (0, 0.0)
    assert best_length([0.2] * 15, 0.1, stairs, 4)[0] == 15


@pytest.mark.parametrize("seed", range(100))
def test_rows_are_shared_by_price_whosever_they_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chains = [sorted(rng.random(rng.integers(0, 4)), reverse=True) for _ in range(3)]
    rate = float(rng.uniform(0.05, 0.4))

    def gain(lengths: tuple[int, ...]) -> float:
        tokens = sum(sum(chain[:length]) for chain, length in zip(chains, lengths, strict=True))
        return tokens - rate * (linear(3 + sum(lengths)) - linear(3))

    best = max(gain(lengths) for lengths in itertools.product(*(range(len(chain) + 1) for chain in chains)))
    assert gain(tuple(share_rows(chains, rate, linear, 3))) == pytest.approx(best)


def simulate(
    thresholds: tuple[float, ...],
    rates: list[list[float]],
    drafting: list[float],
    verifying: list[float],
    rng: np.random.Generator,
) -> float:
    """Tokens gained in one round: chain by thresholds, then the best number of rows; bins are equally likely."""
    probability, chain, spent = 1.0, [], 0.0
    for step in range(len(rates)):
        if probability <= thresholds[step]:
            break
        spent += drafting[step]
        probability *= rates[step][rng.integers(len(rates[step]))]
        chain.append(probability)
    kept = itertools.accumulate(p - price for p, price in zip(chain, verifying, strict=False))
    return max([0.0, *kept]) - spent


def test_a_plan_gains_what_it_says_and_no_other_thresholds_gain_more() -> None:
    rates = [[0.2, 0.5, 0.7, 0.95], [0.1, 0.4, 0.6, 0.9], [0.1, 0.3, 0.5, 0.9]]
    weights = [[0.25] * 4] * 3
    drafting, verifying = [0.1, 0.1, 0.1], [0.3, 0.3, 0.3]
    plan = plan_chain(rates, weights, drafting, verifying)
    rng = np.random.default_rng(4)

    def mean(thresholds: tuple[float, ...]) -> float:
        return float(np.mean([simulate(thresholds, rates, drafting, verifying, rng) for _ in range(20000)]))

    assert plan.value == pytest.approx(mean(plan.thresholds), abs=0.02)
    for others in [(0.0, 0.0, 0.0), (0.0, 2.0, 2.0), (0.0, 0.9, 0.9), (0.0, 0.3, 0.3)]:
        assert mean(others) < plan.value + 0.02


def test_where_nothing_pays_there_is_no_plan() -> None:
    plan = plan_chain([[0.1] * 4] * 3, [[0.25] * 4] * 3, [0.1] * 3, [0.3] * 3)
    assert plan.value < 0 and plan.depth == 0
    certain = plan_chain([[1.0] * 4] * 3, [[0.25] * 4] * 3, [0.1] * 3, [0.3] * 3)
    assert certain.value == pytest.approx(3 * 0.6, abs=0.01) and certain.depth == 3
