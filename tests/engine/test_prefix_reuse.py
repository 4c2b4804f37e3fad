"""Parked KV: a turn that extends its own sequence runs only what is new, with the same bits; the rest is evicted."""

import pytest

from stepahead.engine.request import FinishReason
from support.toy_engine import (
    ToyProposer,
    assert_all_free,
    continuation,
    make_engine,
    make_request,
    prompt_of,
    run,
)


def finish_one(engine, request_id, prompt, max_new_tokens=10, **params):
    """Run one request to its end beside nothing else; the sequence."""
    sequence = engine.add(make_request(request_id, prompt, max_new_tokens, **params))
    run(engine)
    return sequence


@pytest.mark.parametrize("length", [5, 63, 64, 65, 150, 300])
@pytest.mark.parametrize("num_new", [1, 30])
def test_a_second_turn_runs_only_what_is_new(length, num_new):
    engine = make_engine(ToyProposer(lambda position: position % 3 != 0))
    first = finish_one(engine, 0, prompt_of(length))
    rows_before = engine.metrics.num_trunk_rows
    prompt = [*first.token_ids, *prompt_of(num_new, 9)]
    second = finish_one(engine, 1, prompt, depth=0)
    assert second.output_ids == continuation(prompt, 10)
    # The last token of the first turn had not been through the trunk.
    assert second.num_cached_tokens == len(first.token_ids) - 1
    assert engine.metrics.num_trunk_rows - rows_before == num_new + 1 + 9
    assert engine.metrics.num_reused_tokens == second.num_cached_tokens
    assert_all_free(engine)


def test_the_same_prompt_again_runs_one_row():
    engine = make_engine()
    first = finish_one(engine, 0, prompt_of(100), 5)
    second = finish_one(engine, 1, prompt_of(100), 5)
    assert second.num_cached_tokens == 99
    assert second.output_ids == first.output_ids


def test_a_turn_that_differs_within_the_slack_is_reused():
    engine = make_engine()
    first = finish_one(engine, 0, prompt_of(290), 12)
    prompt = [*first.token_ids[:-10], 1, 2, 3]
    second = finish_one(engine, 1, prompt)
    assert second.num_cached_tokens >= len(first.token_ids) - 10
    assert second.output_ids == continuation(prompt, 10)


def test_a_turn_that_differs_beyond_the_slack_is_recomputed():
    engine = make_engine()
    first = finish_one(engine, 0, prompt_of(300), 20)
    prompt = [*first.token_ids[:150], *prompt_of(50, 5)]
    second = finish_one(engine, 1, prompt)
    assert second.num_cached_tokens == 0
    assert second.output_ids == continuation(prompt, 10)
    assert len(engine.scheduler.parked) == 2


def test_the_longest_prefix_is_taken():
    engine = make_engine()
    shared = prompt_of(50)
    first, second = (engine.add(make_request(number, [*shared, number], 10)) for number in (0, 1))
    run(engine)
    assert len(engine.scheduler.parked) == 2
    prompt = [*first.token_ids, 7]
    third = finish_one(engine, 2, prompt)
    assert third.num_cached_tokens == len(first.token_ids) - 1 and third.kv is first.kv
    assert finish_one(engine, 3, [*second.token_ids, 7]).kv is second.kv


def test_proposer_state_goes_with_the_kv():
    engine = make_engine()
    first = finish_one(engine, 0, prompt_of(30))
    finish_one(engine, 1, [*first.token_ids, 3])
    # begin twice, never forgotten: one cached sequence. observe() checked that its rows follow one another.
    assert engine.proposer.events == [("begin", 0, 0), ("begin", 1, len(first.token_ids) - 1)]
    assert len(engine.proposer.known) == 1


def test_two_requests_do_not_share_one_entry():
    engine = make_engine()
    first = finish_one(engine, 0, prompt_of(100))
    prompts = [[*first.token_ids, number] for number in (1, 2)]
    sequences = [engine.add(make_request(number, prompts[number - 1], 10)) for number in (1, 2)]
    run(engine)
    assert sequences[0].num_cached_tokens > 0 and sequences[1].num_cached_tokens == 0
    for sequence, prompt in zip(sequences, prompts, strict=True):
        assert sequence.output_ids == continuation(prompt, 10)
    assert_all_free(engine)


def test_entries_are_evicted_oldest_first():
    engine = make_engine(max_num_seqs=2)
    turns = [finish_one(engine, number, prompt_of(20, number)) for number in range(3)]
    assert len(engine.scheduler.parked) == 2
    assert finish_one(engine, 3, [*turns[1].token_ids, 1]).num_cached_tokens > 0
    assert finish_one(engine, 4, [*turns[0].token_ids, 1]).num_cached_tokens == 0
    assert_all_free(engine)


def test_entries_are_evicted_when_blocks_are_needed():
    engine = make_engine(num_blocks=(6, 64, 64), max_num_seqs=2, chunk_tokens=64)
    first = finish_one(engine, 0, prompt_of(100), 28)  # 2 blocks
    finish_one(engine, 1, prompt_of(60, 1), 4)  # 1 block
    assert len(engine.scheduler.parked) == 2
    finish_one(engine, 2, prompt_of(200, 2), 120)  # 5 blocks: the older entry must go
    assert ("forget", first.kv.kv_id) in engine.proposer.events
    assert_all_free(engine)


def test_the_entry_that_is_reused_is_not_evicted_for_itself():
    engine = make_engine(num_blocks=(6, 64, 64), max_num_seqs=2)
    first = finish_one(engine, 0, prompt_of(100), 28)
    finish_one(engine, 1, prompt_of(60, 1), 4)
    second = finish_one(engine, 2, [*first.token_ids, *prompt_of(100, 3)], 150)  # all 6 blocks
    assert second.num_cached_tokens == 127
    assert second.output_ids == continuation([*first.token_ids, *prompt_of(100, 3)], 150)


def test_parked_rows_are_bounded_by_one_sequence():
    """In groups that keep every row: memory that idles is memory lost."""
    engine = make_engine(max_num_seqs=4, context_length=256)
    for number in range(4):
        finish_one(engine, number, prompt_of(100, number))
    assert engine.scheduler.parked.num_held(0) <= 4
    assert len(engine.scheduler.parked) == 2


def test_an_end_inside_a_draft_parks_what_was_kept():
    engine = make_engine()
    tokens = continuation(prompt_of(30), 8)
    end = next(token for token in tokens[2:] if tokens.index(token) >= 2)
    first = finish_one(engine, 0, prompt_of(30), 50, end_ids={end})
    assert first.finish_reason is FinishReason.STOP
    prompt = [*first.token_ids, 5, 6]
    second = finish_one(engine, 1, prompt)
    assert second.num_cached_tokens == len(first.token_ids) - 1
    assert second.output_ids == continuation(prompt, 10)
