"""Where heads start, what they keep, and when they must start anew."""

import numpy as np
import pytest

from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.models.model import DraftSpec
from stepahead.speculative.head_cache import HeadCache


def cache_of(window: int | None, chain: str = "exact", num_rows: int = 1000, num_heads: int = 3) -> HeadCache:
    spec = DraftSpec(num_heads, tuple(range(num_heads)), window, is_recurrent=num_heads == 1)
    cache = HeadCache(spec, ReferenceBackend(), hidden_size=2, slack=64)
    cache.use_chain(chain)
    cache.observe(0, np.zeros((num_rows, 2), np.float32), 0, num_rows)
    return cache


def plan(cache: HeadCache, position: int, num_heads: int = 3) -> list[tuple[int, int]]:
    """(row, first_output) of each head."""
    return [(plan.row, plan.first_output) for plan in cache.plan(position, num_heads)]


def run(cache: HeadCache, *ends: int) -> None:
    """Each head ran its rows up to an end."""
    for head, end in enumerate(ends):
        if end == cache.next_row[head]:
            continue
        start = max(cache.next_row[head], cache.first_output[head])
        cache.keep_outputs(head, min(start, end), end, np.zeros((max(end - start, 0), 2), np.float32), 0)


def test_each_head_needs_a_window_more_than_the_next() -> None:
    # The draft row of head 2 stands at 1002 and sees 100 keys, from 903 on. They are made of the outputs 902 .. of
    # head 1, which see keys from 803 on; and so back.
    assert plan(cache_of(100), 1000) == [(703, 802), (803, 902), (903, 1002)]
    assert plan(cache_of(100, "catchup"), 1000) == [(901, 1000), (902, 1001), (903, 1002)]
    assert plan(cache_of(100, num_heads=1), 1000, 1) == [(901, 1000)]


def test_a_short_draft_needs_fewer_windows() -> None:
    assert plan(cache_of(100), 1000, 1) == [(901, 1000)]
    assert plan(cache_of(100), 1000, 2) == [(802, 901), (902, 1001)]
    assert plan(cache_of(100), 1000, 0) == []


def test_heads_with_full_attention_need_everything() -> None:
    assert plan(cache_of(None), 1000) == [(1, 1), (2, 2), (3, 1002)]
    assert plan(cache_of(None, "catchup"), 1000) == [(0, 1000), (0, 1001), (0, 1002)]


def test_a_lost_history_moves_the_first_row() -> None:
    cache = cache_of(None, num_rows=10)
    cache.observe(30, np.zeros((5, 2), np.float32), 0, 35)
    assert plan(cache, 35) == [(31, 31), (32, 32), (33, 37)]
    cache.use_chain("catchup")
    assert plan(cache, 35) == [(31, 35), (31, 36), (31, 37)]


def test_there_is_nothing_to_draft_from_before_the_trunk_has_run_a_row_here() -> None:
    cache = cache_of(100, num_rows=0)
    assert not cache.can_draft(0)
    cache.truncate(60)  # a prefix that was not observed
    assert not cache.can_draft(60)
    cache.observe(60, np.zeros((1, 2), np.float32), 0, 61)
    assert cache.can_draft(61)


def test_a_head_that_lags_within_its_reach_goes_on() -> None:
    cache = cache_of(100)
    cache.prepare(1000, 3)
    assert cache.next_row == cache.first_valid == [703, 803, 903]
    run(cache, 1001, 950, 940)
    cache.prepare(1001, 3)
    assert cache.next_row == [1001, 950, 940]
    cache.prepare(1075, 3)  # now head 2 needs keys from 978 on, made of outputs that head 1 has not run
    assert cache.next_row == [1001, 950, 978]
    cache.prepare(2000, 3)
    assert cache.next_row == [1703, 1803, 1903]


def test_a_head_that_misses_keys_starts_anew_and_those_after_it_go_on() -> None:
    cache = cache_of(100)
    cache.prepare(1000, 3)
    run(cache, 1000, 1000, 1000)
    cache.trim(0, 950)  # a row at 1000 sees keys from 901 on
    cache.prepare(1000, 3)
    assert cache.next_row == [900, 1000, 1000]  # what head 1 reads next is the row 999, with the keys 900 .. 999
    run(cache, 1000, 1000, 1000)
    cache.prepare(1000, 3)
    assert cache.next_row == [1000, 1000, 1000]  # what was run again is there again


def test_a_longer_draft_starts_anew_unless_a_window_of_outputs_is_kept() -> None:
    cache = cache_of(100)
    cache.prepare(1000, 1)
    run(cache, 1001)
    cache.observe(1000, np.zeros((1, 2), np.float32), 0, 1001)
    assert plan(cache, 1001, 1) == [(1001, 1001)]
    assert plan(cache, 1001, 2) == [(803, 902), (903, 1002)]
    cache.observe(1001, np.zeros((99, 2), np.float32), 0, 1100)
    run(cache, 1101)
    # Outputs are kept from 1000 on: head 1 needs those from 1001 on, if the draft stands at 1100.
    assert plan(cache, 1100, 2) == [(1101, 1001), (1002, 1101)]
    assert plan(cache, 1098, 2) == [(900, 999), (1000, 1099)]


def test_a_rollback_that_leaves_a_level_empty_costs_the_head_that_fills_it() -> None:
    cache = cache_of(100, num_rows=200)
    cache.prepare(20, 3)
    assert cache.next_row == cache.first_valid == [1, 2, 3]
    run(cache, 200, 200, 200)
    assert [level.start for level in cache.levels] == [-1, 1, 33]
    cache.truncate(30)
    # The row that head 2 reads next is gone. Only head 1 can give it back, from rows that are there.
    assert plan(cache, 30) == [(30, 1), (2, 29), (30, 32)]


def test_truncating_forgets_every_level() -> None:
    cache = cache_of(100)
    cache.prepare(1000, 3)
    run(cache, 1001, 1002, 1003)
    cache.truncate(950)
    assert cache.next_row == [950, 950, 950]
    assert [level.end for level in cache.levels[:2]] == [950, 950]
    cache.truncate(0)
    assert (cache.levels[0].start, cache.levels[0].end) == (-1, 0)


@pytest.mark.parametrize("chain", ["exact", "catchup"])
@pytest.mark.parametrize("num_heads", [1, 3])
def test_saved_rows_restored_leave_the_heads_as_much_to_run(num_heads: int, chain: str) -> None:
    rows = np.arange(2000, dtype=np.float32).reshape(1000, 2)
    for end in range(1, 1000, 23):
        cache = cache_of(100, chain, num_rows=0, num_heads=num_heads)
        cache.observe(0, rows, 0, end)
        saved = cache.save()
        assert saved is not None and saved.lowest <= max(end - 64, 0)
        for num_tokens in {max(saved.lowest, 1), end}:
            cold, warm = (cache_of(100, chain, num_rows=0, num_heads=num_heads) for _ in range(2))
            cold.observe(0, rows, 0, num_tokens)
            warm.restore(saved, num_tokens)
            assert plan(warm, num_tokens, num_heads) == plan(cold, num_tokens, num_heads)
            start = max(plan(cold, num_tokens, num_heads)[0][0] - 1, 0)
            if start < num_tokens:
                level = warm.levels[0]
                assert level.read(start, num_tokens).tolist() == rows[start:num_tokens].tolist()


def test_rows_that_are_not_all_known_are_not_saved() -> None:
    cache = cache_of(None, num_rows=10)
    assert cache.save() is not None
    cache.truncate(70)  # as if a prefix had not been observed
    assert cache.save() is None
    cache.observe(70, np.zeros((5, 2), np.float32), 0, 75)
    assert cache.save() is None
