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


def first_rows(cache: HeadCache, position: int) -> list[int]:
    return [cache.first_row(head, position) for head in range(len(cache.next_row))]


def test_each_head_needs_a_window_more_than_the_next() -> None:
    # The draft row of head 2 stands at 1002 and sees 100 keys, from 903 on; and so back.
    assert first_rows(cache_of(100), 1000) == [703, 803, 903]
    assert first_rows(cache_of(100, "catchup"), 1000) == [901, 902, 903]
    assert first_rows(cache_of(100, num_heads=1), 1000) == [901]


def test_heads_with_full_attention_need_everything() -> None:
    assert first_rows(cache_of(None), 1000) == [1, 2, 3]
    assert first_rows(cache_of(None, "catchup"), 1000) == [0, 0, 0]


def test_a_lost_history_moves_the_first_row() -> None:
    cache = cache_of(None, num_rows=10)
    cache.observe(30, np.zeros((5, 2), np.float32), 0, 35)
    assert first_rows(cache, 35) == [31, 32, 33]
    cache.use_chain("catchup")
    assert first_rows(cache, 35) == [31, 31, 31]


def test_a_head_that_lags_within_its_reach_goes_on() -> None:
    cache = cache_of(100)
    cache.prepare(1000, 3)
    assert cache.next_row == cache.first_valid == [703, 803, 903]
    cache.next_row = [1001, 950, 940]
    cache.levels[1].store(703, np.zeros((298, 2), np.float32), 0, 298)
    cache.levels[2].store(803, np.zeros((147, 2), np.float32), 0, 147)
    cache.prepare(1001, 3)
    assert cache.next_row == [1001, 950, 940]
    cache.prepare(1075, 3)  # now head 2 would need a row from 978 on
    assert cache.next_row == [1001, 950, 978]


@pytest.mark.parametrize(("chain", "expected"), [("exact", [703, 803, 903]), ("catchup", [901, 1000, 1000])])
def test_heads_follow_one_that_starts_anew_if_they_read_it(chain: str, expected: list[int]) -> None:
    cache = cache_of(100, chain)
    cache.prepare(1000, 3)
    cache.next_row = [1000, 1000, 1000]
    cache.trim(0, 950)  # head 0 misses keys, the others do not
    cache.trimmed[1:] = [0, 0]
    cache.prepare(1000, 3)
    assert cache.next_row == expected
    cache.next_row = [1000, 1000, 1000]
    for level in cache.levels[1:]:
        level.store(850, np.zeros((150, 2), np.float32), 0, 150)
    cache.prepare(1000, 3)
    assert cache.next_row == [1000, 1000, 1000]  # what was run again is there again


def test_heads_start_anew_whose_inputs_a_rollback_left_behind() -> None:
    cache = cache_of(100, num_rows=200)
    cache.prepare(20, 3)
    assert cache.next_row == cache.first_valid == [1, 2, 3]
    cache.levels[1].store(1, np.zeros((199, 2), np.float32), 0, 199)
    cache.levels[2].store(2, np.zeros((198, 2), np.float32), 0, 198)
    cache.next_row = [200, 200, 200]
    assert [level.start for level in cache.levels] == [-1, 1, 33]
    cache.truncate(30)
    cache.prepare(30, 3)
    # The row that head 2 reads next is gone. Only head 1 can give it back, from rows that are there.
    assert cache.next_row == [30, 2, 3]


def test_truncating_forgets_every_level() -> None:
    cache = cache_of(100)
    cache.prepare(1000, 3)
    cache.next_row = [1001, 1002, 1003]
    cache.levels[1].store(703, np.zeros((298, 2), np.float32), 0, 298)
    cache.truncate(950)
    assert cache.next_row == [950, 950, 950]
    assert [level.end for level in cache.levels[:2]] == [950, 950]
    cache.truncate(0)
    assert (cache.levels[0].start, cache.levels[0].end) == (-1, 0)
