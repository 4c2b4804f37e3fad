"""The arbiter in a world whose time is counted, not measured: what it gains, and what it never loses."""

import math

import numpy as np
import pytest

from stepahead.engine.params import Speculation
from stepahead.engine.trace import StepTrace
from stepahead.speculative.cost import CostSeed
from support.drafting_world import Text, World, fixed, random_text

AUTO = Speculation()
USELESS = fixed(0.0, 0.0, 0.0)
GOOD = fixed(0.92, 0.9, 0.88)

PROFILES = {
    "good": GOOD,
    "ok": fixed(0.75, 0.65, 0.6),
    "doubtful": fixed(0.55, 0.45, 0.4),
    "bad": fixed(0.3, 0.2, 0.2),
    "useless": USELESS,
    "first head only": fixed(0.9, 0.4, 0.2),
}


def gain(world: World, text: Text, speculation: Speculation = AUTO, times: int = 1) -> float:
    """Of the mean request, to plain decoding."""
    return times * world.plain_ms(text) / sum(world.run(text, speculation)[0] for _ in range(times))


@pytest.mark.parametrize("name", PROFILES)
def test_it_is_about_as_fast_as_the_best_fixed_depth_or_none(name: str) -> None:
    text = random_text(400, PROFILES[name], seed=3)
    depths = [Speculation("mtp", depth, adaptive=False) for depth in (1, 2, 3)]
    best = max(1.0, *(gain(World(), text, depth, times=6) for depth in depths))
    worlds = [World(luck=luck) for luck in range(8)]
    firsts = [gain(world, text) for world in worlds]
    later = [gain(world, text, times=3) for world in worlds]
    assert min(firsts) > 0.85 * best  # two drafts decide how it begins
    assert sum(firsts) > 0.96 * best * len(worlds)
    assert sum(later) > 0.98 * best * len(worlds)


@pytest.mark.parametrize("length", range(280, 320, 3))
def test_an_index_ends_with_its_sequence_even_if_nobody_looks(length: int) -> None:
    """Of steps that gain nothing most are not looked at, and a text ends in any of them."""
    world = World()
    sequence = world.start(random_text(length, USELESS), AUTO)
    while sequence.num_remaining_tokens > 1:
        world.step([sequence])
    assert sequence.copy_index is not None
    while sequence.num_remaining_tokens > 0:
        world.step([sequence])
    assert sequence.copy_index is None


@pytest.mark.parametrize("vocab", [5000, 6])  # nothing to copy, or copies that mislead
def test_no_request_is_more_than_three_percent_slower(vocab: int) -> None:
    world = World()
    for seed in range(10):
        assert gain(world, random_text(200, USELESS, seed, vocab=vocab)) > 0.97


def test_drafting_comes_back_when_the_text_turns_and_goes_when_it_turns_again() -> None:
    text = random_text(1800, lambda position: (0.92, 0.9, 0.88) if 600 <= position < 1200 else (0.0, 0.0, 0.0))
    world = World()
    sequence = world.start(text, AUTO)
    drafted: list[tuple[int, int]] = []
    while sequence.num_remaining_tokens > 0:
        before = sequence.stats.num_draft_tokens
        position = len(sequence.token_ids)
        world.step([sequence])
        drafted.append((position, sequence.stats.num_draft_tokens - before))

    def steps_with_drafts(start: int, end: int) -> float:
        counts = [count > 0 for position, count in drafted if start <= position < end]
        return sum(counts) / len(counts)

    assert steps_with_drafts(0, 600) < 0.05
    assert steps_with_drafts(760, 1200) > 0.9
    assert steps_with_drafts(1300, 1800) < 0.1


def test_what_one_request_taught_serves_the_next() -> None:
    world = World()
    text = random_text(40, GOOD)
    first = gain(world, text)
    for seed in range(5):
        gain(world, random_text(200, GOOD, seed + 1))
    assert gain(world, text) > first + 0.05


def edited_file(rates=USELESS) -> Text:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 5000, 400).tolist()
    edited = list(base)
    for position in range(20, 400, 40):
        edited[position] = 4999 - position
    return Text(base, edited, rates)


@pytest.mark.parametrize("rates", [USELESS, fixed(0.5, 0.4, 0.3), GOOD])
def test_copies_are_made_where_they_pay(rates) -> None:
    text, world = edited_file(rates), World()
    assert gain(world, text) > 2.5
    _, stats = world.run(text)
    assert stats.num_accepted_tokens_by_source["copy"] > 250
    assert len(stats.num_draft_tokens_per_pos) == 15
    assert world.run(text, Speculation("mtp"))[1].num_draft_tokens_by_source.keys() <= {"mtp"}
    assert world.run(text, Speculation("copy"))[1].num_draft_tokens_by_source.keys() == {"copy"}


def test_depth_bounds_every_source() -> None:
    world = World()
    for _ in range(3):
        _, stats = world.run(edited_file(GOOD), Speculation(depth=2))
    assert len(stats.num_draft_tokens_per_pos) == 2


def test_dear_rows_are_not_verified() -> None:
    """Each further row costs as much as a pass: nothing can pay, however right the drafts are."""
    dear = CostSeed((1, 2, 16), (1.0, 2.0, 16.0), (0.0,) * 3, 0.0, (0.1, 0.1, 0.1), 0.01, 0.01)
    world = World(dear)
    for _ in range(3):
        assert gain(world, edited_file(GOOD)) > 0.97


def test_sequences_side_by_side_share_rows_by_what_they_gain() -> None:
    world = World()
    for seed in range(4):  # both kinds are known
        world.run(random_text(150, GOOD, seed))
        world.run(random_text(150, USELESS, seed))
    good, bad = (world.start(random_text(300, rates, 9), AUTO) for rates in (GOOD, USELESS))
    while good.num_remaining_tokens > 0:
        world.step([good, bad])
    assert good.stats.num_accepted_tokens > 120
    assert bad.stats.num_draft_tokens < 0.3 * good.stats.num_draft_tokens


def test_heads_that_lag_catch_up_in_chunks_and_only_if_it_pays() -> None:
    text = random_text(400, GOOD)
    world = World(first_lag=300)  # 3 ms, six plain passes
    for _ in range(2):
        milliseconds, stats = world.run(text)
    assert stats.num_draft_tokens > 100
    assert milliseconds < 0.8 * world.plain_ms(text)
    assert world.longest_wait < 1.5 * world.costs[1]
    # A short rest of text does not pay it back.
    short = random_text(6, GOOD)
    assert world.run(short)[1].num_draft_tokens == 0


def test_traces_tell_what_was_decided() -> None:
    world, records = World(), list[StepTrace]()
    world.arbiter.on_step = records.append
    text = edited_file(GOOD)
    for _ in range(2):
        _, stats = world.run(text)
    own = [record for record in records if record.request_id == 2]
    assert sum(record.depth for record in own) == stats.num_draft_tokens
    assert sum(record.num_accepted for record in own) == stats.num_accepted_tokens
    assert sum(record.num_accepted + 1 for record in own) == len(text.tokens) - 1
    assert {record.source for record in own} >= {"copy"}
    for record in own:
        assert record.num_rows == 1 + record.depth
        assert record.actual_ms == pytest.approx(world.costs[record.num_rows])
        assert record.predicted_ms == pytest.approx(record.actual_ms, rel=0.05)
        assert len(record.prices) == len(record.probabilities) == record.num_drafted >= record.depth
        assert list(record.probabilities) == sorted(record.probabilities, reverse=True)
        assert all(math.isfinite(price) and price >= 0 for price in record.prices)
        worth = sum(record.probabilities[: record.depth]) - sum(record.prices[: record.depth])
        assert worth >= -1e-9, "a draft is verified only where it gains"
