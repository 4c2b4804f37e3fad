"""Which depth cycles have, and when the host's steps are better, in a world whose times are known."""

import pytest

from stepahead.engine.params import Speculation
from support.cycle_world import CycleWorld
from support.drafting_world import Text, fixed, random_text

PROFILES = {
    "good": fixed(0.85, 0.75, 0.7),
    "doubtful": fixed(0.55, 0.45, 0.4),
    "useless": fixed(0.02, 0.02, 0.02),
    "first head only": fixed(0.9, 0.3, 0.1),
}
NUM_TEXTS = 6


def milliseconds(world: CycleWorld, text: Text) -> float:
    return sum(world.run(text)[0] for _ in range(NUM_TEXTS))


@pytest.mark.parametrize("name", PROFILES)
def test_cycles_hide_what_the_host_takes(name: str) -> None:
    text = random_text(400, PROFILES[name], seed=3)
    with_cycles, without = CycleWorld(host_ms=0.3), CycleWorld(host_ms=0.3, has_cycles=False)
    taken, plain = milliseconds(with_cycles, text), milliseconds(without, text)
    hidden = 0.3 * len(without.depths)
    assert plain - taken > 0.7 * hidden
    assert with_cycles.depths.count(None) < 0.2 * len(with_cycles.depths)


@pytest.mark.parametrize("name", PROFILES)
def test_where_nothing_is_to_be_hidden_little_is_lost(name: str) -> None:
    """Margins tell the host which drafts not to verify; cycles that know none must not be worth less than that."""
    text = random_text(400, PROFILES[name], seed=3)
    assert milliseconds(CycleWorld(0.0), text) < 1.03 * milliseconds(CycleWorld(0.0, has_cycles=False), text)


def test_depth_follows_acceptance() -> None:
    found = {}
    for name in ("good", "first head only", "useless"):
        world = CycleWorld(host_ms=0.3)
        milliseconds(world, random_text(400, PROFILES[name], seed=4))
        later = [depth for depth in world.depths[len(world.depths) // 2 :] if depth is not None]
        found[name] = max(set(later), key=later.count)
    assert found == {"good": 2, "first head only": 1, "useless": 0}


def test_a_fixed_depth_is_kept() -> None:
    world = CycleWorld(host_ms=0.3)
    world.run(random_text(60, PROFILES["useless"]), Speculation("mtp", 2, adaptive=False))
    assert set(world.depths[:-3]) == {2}


def test_several_fixed_depths_are_the_hosts() -> None:
    world = CycleWorld(host_ms=0.3)
    text = random_text(60, PROFILES["good"])
    sequences = [world.start(text, Speculation("mtp", depth, adaptive=False)) for depth in (1, 2)]
    assert world.planner.depth(sequences) is None
    assert world.planner.depth(sequences[:1]) == 1


def test_copies_are_made_by_the_host() -> None:
    part = random_text(120, PROFILES["useless"], seed=5).tokens
    world = CycleWorld(host_ms=0.05)
    _, stats = world.run(Text(part, part[:100], PROFILES["useless"]))
    assert stats.num_accepted_tokens_by_source.get("copy", 0) > 60


def test_cycles_that_turn_out_slow_are_given_up_and_tried_again() -> None:
    """As on a device that others use: what was measured once is not believed for ever."""
    world, text = CycleWorld(host_ms=0.0), random_text(600, PROFILES["doubtful"], seed=6)
    world.planner._milliseconds = {(1, depth): 50.0 for depth in range(4)}
    world.run(text)
    assert world.depths[:20] == [None] * 20
    assert any(depth is not None for depth in world.depths)
