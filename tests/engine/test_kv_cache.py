"""KVCache: blocks are claimed, trimmed, truncated and released exactly once, and never while still needed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from stepahead.backends.base import BLOCK_SIZE
from stepahead.engine.kv_cache import KVCache, blocks_needed, size_groups
from stepahead.errors import CapacityError
from stepahead.models.model import KVSpec

FULL = KVSpec("full", None, (0,), is_draft=False)
SLIDING = KVSpec("sliding", 100, (1, 2), is_draft=False)
DRAFT = KVSpec("mtp-sliding", 100, (3, 4, 5), is_draft=True)
SPECS = (FULL, SLIDING, DRAFT)
SLACK = 17


def make(num_blocks=(20, 20, 20)):
    return KVCache(SPECS, num_blocks, SLACK)


def write(cache, kv, num_tokens, groups=(0, 1)):
    """As a pass does: claim, then advance."""
    for group in groups:
        assert cache.claim(kv, group, kv.num_tokens, num_tokens)
    cache.advance(kv, num_tokens, num_tokens)


def test_claim_gives_blocks_for_all_positions():
    cache = make()
    kv = cache.new()
    assert cache.claim(kv, 0, 0, 65)
    assert len(kv.tables[0]) == 2 and min(kv.tables[0]) >= 0
    assert cache.num_free(0) == 18
    assert cache.claim(kv, 0, 10, 128)  # nothing new
    assert cache.num_free(0) == 18


def test_claim_may_leave_a_gap():
    cache = make()
    kv = cache.new()
    assert cache.claim(kv, 2, 200, 201)
    assert kv.tables[2][:3] == [-1, -1, -1] and kv.tables[2][3] >= 0
    assert cache.num_held(kv, 2) == 1


def test_a_claim_that_does_not_fit_changes_nothing():
    cache = make((3, 3, 3))
    kv = cache.new()
    assert cache.claim(kv, 0, 0, 64)
    before = [list(table) for table in kv.tables]
    assert not cache.claim(kv, 0, 64, 64 + 3 * BLOCK_SIZE)
    assert kv.tables == before and cache.num_free(0) == 2


def test_an_empty_claim_succeeds_on_a_full_cache():
    cache = make((0, 0, 0))
    assert cache.claim(cache.new(), 0, 7, 7)


def test_freed_blocks_are_claimed_first():
    """Pages that were never touched cost nothing: they stay untouched."""
    cache = make()
    first, second = cache.new(), cache.new()
    write(cache, first, 100)
    used = set(first.tables[0])
    cache.release(first)
    write(cache, second, 100)
    assert set(second.tables[0]) == used


def test_a_sliding_group_keeps_window_and_slack():
    cache = make()
    kv = cache.new()
    for num_tokens in range(1, 400):
        write(cache, kv, num_tokens)
        first_needed = max(0, num_tokens - SLACK - 100 + 1)
        held = [index for index, block in enumerate(kv.tables[1]) if block >= 0]
        assert held == list(range(first_needed // BLOCK_SIZE, (num_tokens - 1) // BLOCK_SIZE + 1))
    assert cache.num_held(kv, 0) == 7


def test_truncate_within_the_slack_at_every_length():
    for num_tokens in range(18, 400):
        cache = make()
        kv = cache.new()
        write(cache, kv, num_tokens)
        cache.truncate(kv, num_tokens - SLACK)
        assert kv.num_tokens == num_tokens - SLACK


def test_truncate_past_the_slack_raises_and_changes_nothing():
    cache = make()
    kv = cache.new()
    write(cache, kv, 64 * 5)
    tables = [list(table) for table in kv.tables]
    with pytest.raises(CapacityError, match=r"from 320 to 160 tokens.*window of 100.*'sliding'"):
        cache.truncate(kv, 160)
    assert kv.tables == tables and kv.num_tokens == 320


def test_truncate_frees_blocks_wholly_above():
    cache = make()
    kv = cache.new()
    write(cache, kv, 129)
    assert cache.claim(kv, 2, 100, 140)
    cache.truncate(kv, 128)
    assert [len(table) for table in kv.tables] == [2, 2, 2]
    cache.truncate(kv, 127)
    assert [len(table) for table in kv.tables] == [2, 2, 2]
    cache.truncate(kv, 0)
    assert [cache.num_free(group) for group in range(3)] == [20, 20, 20]


def test_truncate_frees_what_was_claimed_for_rows_that_never_ran():
    cache = make()
    kv = cache.new()
    write(cache, kv, 10)
    assert cache.claim(kv, 0, 10, 300)
    cache.truncate(kv, 10)
    assert cache.num_held(kv, 0) == 1


def test_advance_drops_rejected_rows_before_it_trims():
    cache = make()
    kv = cache.new()
    write(cache, kv, 180)
    for group in (0, 1):
        assert cache.claim(kv, group, 180, 196)
    cache.advance(kv, 196, 181)
    assert kv.num_tokens == 181
    # Trimmed for 181, not for 196: block 1 would be gone.
    assert kv.tables[1] == [-1, *kv.tables[1][1:]] and kv.tables[1][1] >= 0
    cache.truncate(kv, 181 - SLACK)


def test_trim_of_a_draft_group_skips_gaps():
    cache = make()
    kv = cache.new()
    assert cache.claim(kv, 2, 0, 64) and cache.claim(kv, 2, 640, 704)
    cache.trim(kv, 2, 640)
    assert cache.num_held(kv, 2) == 1 and kv.tables[2][10] >= 0


def test_trim_inside_the_slack_is_our_mistake():
    cache = make()
    kv = cache.new()
    write(cache, kv, 200)
    with pytest.raises(AssertionError):
        cache.trim(kv, 1, 200 - 100)
    with pytest.raises(AssertionError):
        cache.trim(kv, 0, 64)


def test_the_blocks_of_a_window_serve_down_to_the_lowest_length():
    for num_tokens in range(1, 500):
        cache = make()
        kv = cache.new()
        write(cache, kv, num_tokens)
        assert cache.window_blocks(kv, 0, num_tokens) == (0, kv.tables[0])
        first, blocks = cache.window_blocks(kv, 1, num_tokens)
        assert blocks == kv.tables[1][first:] and min(blocks) >= 0
        lowest = cache.lowest(1, first)
        assert lowest <= max(num_tokens - SLACK, 0) and cache.lowest(0, 0) == 0
        # The row after as many tokens sees 99 before it.
        assert max(lowest - 99, 0) == first * BLOCK_SIZE


def test_a_shared_block_is_freed_by_its_last_holder():
    cache = make()
    first, second = cache.new(), cache.new()
    write(cache, first, 100)
    cache.adopt(second, 0, 0, first.tables[0])
    cache.adopt(second, 1, 1, first.tables[1][1:])
    assert cache.is_shared(second, 0, 1)
    cache.release(first)
    assert [cache.num_free(group) for group in (0, 1)] == [18, 19]
    assert not cache.is_shared(second, 0, 1)
    cache.release(second)
    assert [cache.num_free(group) for group in (0, 1)] == [20, 20]


def test_a_shared_block_is_replaced_if_there_is_a_free_one():
    cache = make((3, 3, 3))
    first, second = cache.new(), cache.new()
    write(cache, first, 100)
    shared = list(first.tables[0])
    cache.adopt(second, 0, 0, shared)
    assert cache.replace(second, 0, 1) == (shared[1], second.tables[0][1])
    assert first.tables[0] == shared and not cache.is_shared(second, 0, 1) and cache.is_shared(second, 0, 0)
    assert cache.num_free(0) == 0 and cache.replace(second, 0, 0) is None


def test_names_differ():
    cache = make()
    assert len({cache.new().kv_id for _ in range(10)}) == 10


def test_release_frees_everything_and_can_be_repeated():
    cache = make()
    kv = cache.new()
    write(cache, kv, 300)
    assert cache.claim(kv, 2, 250, 303)
    cache.release(kv)
    cache.release(kv)
    assert [cache.num_free(group) for group in range(3)] == [20, 20, 20]
    assert kv.num_tokens == 0


@given(st.integers(1, 200), st.integers(1, 80), st.lists(st.integers(1, 150), min_size=1, max_size=12))
def test_blocks_needed_is_enough_wherever_steps_fall(window, slack, steps):
    """The bound that admission relies on, against the real bookkeeping."""
    specs = (KVSpec("full", None, (0,), is_draft=False), KVSpec("sliding", window, (1,), is_draft=False))
    cache = KVCache(specs, (99, 99), slack)
    kv = cache.new()
    num_tokens = sum(steps)
    most = 0
    for step in steps:
        end = kv.num_tokens + step
        assert cache.claim(kv, 0, kv.num_tokens, end) and cache.claim(kv, 1, kv.num_tokens, end)
        most = max(most, cache.num_held(kv, 1))
        cache.advance(kv, end, end)
    assert most <= blocks_needed(specs[1], num_tokens, max(steps), slack)
    assert cache.num_held(kv, 0) == blocks_needed(specs[0], num_tokens, max(steps), slack)


def test_blocks_needed_is_not_more_than_the_worst_case():
    # Window 128, slack 64, 66 rows: 128 - 1 + 64 + 66 = 257 positions touch 5 blocks at most, 258 may touch 6.
    spec = KVSpec("sliding", 128, (0,), is_draft=False)
    assert blocks_needed(spec, 10_000, 66, 64) == 5
    assert blocks_needed(spec, 10_000, 67, 64) == 6
    assert blocks_needed(spec, 100, 67, 64) == 2


def test_size_groups():
    assert size_groups(SPECS, 1000, 3, 64, SLACK) == (48, 3 * 4, 3 * 7)
    assert size_groups(SPECS, 64, 2, 512, SLACK) == (2, 2, 2)


class NaiveKV:
    """What a sequence should hold: sets of block numbers per group."""

    def __init__(self):
        self.num_tokens = 0
        self.num_trimmed_for = 0  # the most tokens that it ever had: several rollbacks may add up to more than slack
        self.held = [set(), set(), set()]


class KVCacheMachine(RuleBasedStateMachine):
    """Random claims, passes, rollbacks and releases against the naive model."""

    sequences = Bundle("sequences")

    def __init__(self):
        super().__init__()
        self.capacity = (12, 8, 8)
        self.cache = make(self.capacity)
        self.pairs = []

    @rule(target=sequences)
    def new(self):
        pair = (self.cache.new(), NaiveKV())
        self.pairs.append(pair)
        return pair

    def _claim(self, pair, group, start, end):
        kv, naive = pair
        wanted = {position // BLOCK_SIZE for position in range(start, end)} - naive.held[group]
        free = self.capacity[group] - sum(len(other.held[group]) for _, other in self.pairs)
        is_claimed = self.cache.claim(kv, group, start, end)
        assert is_claimed == (len(wanted) <= free)
        if is_claimed:
            naive.held[group] |= wanted
        return is_claimed

    @rule(pair=sequences, num_rows=st.integers(1, 150), num_rejected=st.integers(0, SLACK - 1))
    def run_pass(self, pair, num_rows, num_rejected):
        kv, naive = pair
        start, end = naive.num_tokens, naive.num_tokens + num_rows
        are_claimed = [self._claim(pair, group, start, end) for group in (0, 1)]
        if not all(are_claimed):
            return
        kept = max(start, end - num_rejected)
        self.cache.advance(kv, end, kept)
        naive.num_tokens, naive.num_trimmed_for = kept, max(naive.num_trimmed_for, kept)
        for held in naive.held:
            held -= {block for block in held if block * BLOCK_SIZE >= kept}
        first_needed = kept - SLACK - 100 + 1
        naive.held[1] -= {block for block in naive.held[1] if (block + 1) * BLOCK_SIZE <= first_needed}

    @rule(pair=sequences, back=st.integers(0, 100), length=st.integers(0, 200))
    def draft(self, pair, back, length):
        _, naive = pair
        start = max(0, naive.num_tokens - back)
        self._claim(pair, 2, start, start + length)

    @rule(pair=sequences, back=st.integers(0, 150))
    def trim_draft(self, pair, back):
        kv, naive = pair
        first_needed = naive.num_tokens - back
        self.cache.trim(kv, 2, first_needed)
        naive.held[2] -= {block for block in naive.held[2] if (block + 1) * BLOCK_SIZE <= first_needed}

    @rule(pair=sequences, back=st.integers(0, 200))
    def truncate(self, pair, back):
        kv, naive = pair
        target = max(0, naive.num_tokens - back)
        needed = {position // BLOCK_SIZE for position in range(max(0, target - 100 + 1), target)}
        if not needed <= naive.held[1]:
            with pytest.raises(CapacityError):
                self.cache.truncate(kv, target)
            assert naive.num_trimmed_for - target > SLACK
            return
        self.cache.truncate(kv, target)
        naive.num_tokens = target
        for held in naive.held:
            held -= {block for block in held if block * BLOCK_SIZE >= target}

    @rule(pair=consumes(sequences))
    def release(self, pair):
        self.cache.release(pair[0])
        self.pairs.remove(pair)
        assert self.cache.num_held(pair[0], 0) == 0

    @invariant()
    def agrees(self):
        for group, capacity in enumerate(self.capacity):
            owned = [block for kv, _ in self.pairs for block in kv.tables[group] if block >= 0]
            assert len(owned) == len(set(owned)), "a block has two owners"
            assert all(0 <= block < capacity for block in owned)
            assert self.cache.num_free(group) == capacity - len(owned)
            for kv, naive in self.pairs:
                held = {index for index, block in enumerate(kv.tables[group]) if block >= 0}
                assert held == naive.held[group]
                assert kv.num_tokens == naive.num_tokens


TestKVCacheMachine = KVCacheMachine.TestCase
TestKVCacheMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
