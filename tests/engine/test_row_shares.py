"""Row shares: who decodes is served first, short prompts overtake long ones, and no prompt waits for ever."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from stepahead.engine.chunk_budget import ChunkBudget
from stepahead.engine.request import Draft, Sequence, SequenceKV
from stepahead.engine.row_shares import rows_of_step, share_prompts
from support.toy_engine import make_request, prompt_of


def sequence(number: int, num_prompt: int, num_computed: int = 0, draft: int = 0) -> Sequence:
    made = Sequence(make_request(number, prompt_of(num_prompt), 100), SequenceKV(number, 1))
    made.num_computed_tokens = num_computed
    made.draft = Draft((1,) * draft, (1.0,) * draft, "toy")
    return made


def decoding(number: int, draft: int = 0) -> Sequence:
    return sequence(number, 10, 9, draft)


def test_half_is_the_oldest_prompts_and_the_rest_the_shortest() -> None:
    assert share_prompts([1000, 30, 500, 20], [1.0] * 4, 100, math.inf) == [50, 30, 0, 20]
    assert share_prompts([10, 1000, 500], [1.0] * 3, 100, math.inf) == [10, 0, 90]
    assert share_prompts([1000], [1.0], 100, math.inf) == [100]
    assert share_prompts([1000, 1000], [1.0] * 2, 100, math.inf) == [100, 0]  # nobody gains by sharing


def test_time_limits_rows_by_their_weight() -> None:
    assert share_prompts([1000], [1.0], 512, 40.0) == [40]
    assert share_prompts([1000], [4.0], 512, 40.0) == [10]
    assert share_prompts([1000, 100], [4.0, 1.0], 512, 40.0) == [5, 20]
    assert share_prompts([1000, 100], [16.0, 16.0], 512, 4.0) == [1, 0]  # too dear, and yet one


def test_decoding_sequences_and_their_drafts_come_first() -> None:
    budget = ChunkBudget(None)
    running = [decoding(0, 3), sequence(1, 100), decoding(2, 1)]
    assert rows_of_step(running, 64, 17, budget) == [4, 58, 2]
    assert rows_of_step(running, 5, 17, budget) == [3, 1, 1]  # a prompt's row comes before a draft
    assert rows_of_step(running, 3, 17, budget) == [1, 1, 1]


def test_a_prompt_that_nobody_waits_beside_has_the_whole_step() -> None:
    budget = ChunkBudget(200.0)
    assert rows_of_step([sequence(0, 1000)], 512, 17, budget) == [512]
    assert rows_of_step([sequence(0, 1000), decoding(1)], 512, 17, budget) == [4, 1]  # nothing is known yet


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3000), st.sampled_from([1.0, 1.5, 4.0, 16.0])), min_size=1, max_size=12),
    st.integers(1, 600),
    st.floats(0.5, 2000.0) | st.just(math.inf),
)
def test_shares_are_within_bounds(prompts, num_rows, units) -> None:
    wanted, weights = zip(*prompts, strict=True)
    counts = share_prompts(wanted, weights, num_rows, units)
    assert 1 <= sum(counts) <= num_rows
    assert all(0 <= count <= most for count, most in zip(counts, wanted, strict=True))
    used = sum(count * weight for count, weight in zip(counts, weights, strict=True))
    assert used <= units + 1e-9 or (counts[0], sum(counts)) == (1, 1)
    if used < units - max(weights) and sum(counts) < num_rows:
        assert counts == list(wanted)  # nothing is left lying


@settings(deadline=None)
@given(st.integers(500, 5000), st.integers(1, 200), st.integers(2, 512))
def test_no_stream_of_short_prompts_starves_a_long_one(length, short, num_rows) -> None:
    """A new short prompt comes with every step."""
    left, steps = length, 0
    while left > 0:
        left -= share_prompts([left, *[short] * 5], [1.0] * 6, num_rows, math.inf)[0]
        steps += 1
    assert steps <= math.ceil(2 * length / num_rows) + 1


@settings(deadline=None)
@given(st.integers(1, 100), st.integers(3, 10))
def test_a_short_prompt_overtakes_long_ones(short, num_long) -> None:
    left = [3000] * num_long + [short]
    steps = 0
    while left[-1]:
        counts = share_prompts([rows for rows in left if rows], [1.0] * len(left), 100, math.inf)
        left = [rows - count for rows, count in zip(left, counts, strict=True)]
        steps += 1
    assert steps <= math.ceil(short / 50)
