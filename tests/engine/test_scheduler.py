"""Scheduler: who is admitted, how rows are shared, what is refused."""

import pytest

from stepahead.engine.kv_cache import KVCache
from stepahead.engine.request import Draft
from stepahead.engine.scheduler import Scheduler
from stepahead.errors import CapacityError, RequestError
from support.toy_engine import (
    SLACK,
    SPECS,
    ToyProposer,
    assert_all_free,
    continuation,
    make_engine,
    make_request,
    prompt_of,
    run,
)


def make_scheduler(num_blocks=(64, 64, 64), max_num_seqs=4, chunk_tokens=64):
    return Scheduler(KVCache(SPECS, num_blocks, SLACK), max_num_seqs, chunk_tokens)


def num_rows(batch):
    return [rows.end - rows.start for rows in batch.rows]


def finish_prompt(sequence):
    """As if all but the last token had been through the trunk."""
    sequence.num_computed_tokens = sequence.kv.num_tokens = len(sequence.token_ids) - 1


# --- rows ---
def test_rows_of_a_batch_are_numbered():
    scheduler = make_scheduler()
    for number, length in enumerate((5, 3)):
        scheduler.add(make_request(number, prompt_of(length), 10))
    first, second = scheduler.schedule().rows
    assert (first.start, first.end, first.first_row, first.logits_start, first.num_logits) == (0, 5, 0, 0, 1)
    assert (second.start, second.end, second.first_row, second.logits_start, second.num_logits) == (0, 3, 5, 1, 1)


def test_parts_of_prompts_have_no_logits():
    scheduler = make_scheduler(chunk_tokens=8)
    scheduler.add(make_request(0, prompt_of(20), 10))
    batch = scheduler.schedule()
    assert num_rows(batch) == [8] and batch.rows[0].num_logits == 0
    scheduler.commit(batch, [None])
    assert scheduler.running[0].num_computed_tokens == 8


def test_decoding_comes_first_then_the_oldest_prompt_and_the_shortest():
    scheduler = make_scheduler(chunk_tokens=64)
    for number, length in enumerate((10, 100, 7, 100)):
        scheduler.add(make_request(number, prompt_of(length), 10))
    scheduler.schedule()
    finish_prompt(scheduler.running[0])
    scheduler.running[0].draft = Draft((1, 2, 3), (1.0, 1.0, 1.0))
    batch = scheduler.schedule()
    # 4 rows decode; half of the 60 others are the oldest prompt's, then the shortest are served, the last one waits.
    assert num_rows(batch) == [4, 53, 7]
    assert batch.rows[0].num_logits == 4 and batch.rows[0].draft.token_ids == (1, 2, 3)


def test_a_draft_is_clipped_to_the_budget_not_a_row():
    scheduler = make_scheduler(chunk_tokens=5, max_num_seqs=3)
    for number in range(3):
        scheduler.add(make_request(number, prompt_of(4), 10))
    scheduler.schedule()
    for sequence in scheduler.running[:2]:
        finish_prompt(sequence)
        sequence.draft = Draft((1, 2, 3), (0.5, 0.25, 0.125), "toy")
    batch = scheduler.schedule()
    assert num_rows(batch) == [3, 1, 1]
    assert batch.rows[0].draft == Draft((1, 2), (0.5, 0.25), "toy")
    assert batch.rows[1].draft == Draft()


def test_a_draft_is_never_wider_than_a_rollback():
    scheduler = make_scheduler()
    scheduler.add(make_request(0, prompt_of(4), 100))
    scheduler.schedule()
    finish_prompt(scheduler.running[0])
    scheduler.running[0].draft = Draft((1,) * 50, (1.0,) * 50)
    assert num_rows(scheduler.schedule()) == [SLACK]


def test_scheduling_twice_gives_the_same_batch():
    scheduler = make_scheduler(chunk_tokens=16)
    scheduler.add(make_request(0, prompt_of(40), 10))
    first, second = scheduler.schedule(), scheduler.schedule()
    assert first.rows[0].sequence is second.rows[0].sequence
    assert (first.rows[0].start, first.rows[0].end) == (second.rows[0].start, second.rows[0].end)


# --- admission ---
def test_what_can_never_fit_is_refused():
    scheduler = make_scheduler(num_blocks=(4, 64, 64))
    with pytest.raises(CapacityError, match=r"200 prompt tokens and 57 new .* need 5 KV blocks .*'full', which has 4"):
        scheduler.add(make_request(0, prompt_of(200), 57))
    assert not scheduler.has_unfinished
    scheduler.add(make_request(1, prompt_of(200), 56))
    assert scheduler.has_unfinished


def test_a_request_for_nothing_is_refused():
    scheduler = make_scheduler()
    with pytest.raises(RequestError, match="empty"):
        scheduler.add(make_request(0, (), 5))
    with pytest.raises(RequestError, match="max_new_tokens=0"):
        scheduler.add(make_request(0, (1,), 0))


def test_a_small_draft_group_refuses_nobody():
    scheduler = make_scheduler(num_blocks=(4, 4, 0))
    scheduler.add(make_request(0, prompt_of(200), 56))
    assert num_rows(scheduler.schedule()) == [64]


def test_at_most_max_num_seqs_run():
    scheduler = make_scheduler(max_num_seqs=2)
    for number in range(5):
        scheduler.add(make_request(number, prompt_of(4), 4))
    scheduler.schedule()
    assert len(scheduler.running) == 2 and len(scheduler.waiting) == 3


def test_admission_is_first_come_first_served():
    """A small request does not overtake a large one that waits for room."""
    engine = make_engine(num_blocks=(10, 64, 64))
    engine.add(make_request(0, prompt_of(300), 100))  # 7 blocks
    engine.add(make_request(1, prompt_of(200, 1), 100))  # 5: must wait
    engine.add(make_request(2, prompt_of(20, 2), 10))  # 1: would fit
    engine.step()
    assert [sequence.request.request_id for sequence in engine.scheduler.running] == [0]
    order = []
    while engine.has_unfinished:
        order += [output.request_id for output in engine.step() if output.finish_reason]
    assert [event[1] for event in engine.proposer.events if event[0] == "begin"] == [0, 1, 2]
    assert sorted(order) == [0, 1, 2]
    assert_all_free(engine)


def test_an_exhausted_cache_delays_and_never_fails():
    engine = make_engine(ToyProposer(lambda position: position % 2 == 0), num_blocks=(6, 8, 2), max_num_seqs=4)
    lengths = [100, 200, 64, 1, 300, 130]
    for number, length in enumerate(lengths):
        engine.add(make_request(number, prompt_of(length, number), 60))
    results = run(engine)
    for number, length in enumerate(lengths):
        assert results[number][0] == tuple(continuation(prompt_of(length, number), 60))
    assert_all_free(engine)


def test_waiting_evicts_nothing_that_could_not_help():
    engine = make_engine(num_blocks=(10, 64, 64))
    engine.add(make_request(0, prompt_of(50), 10))
    run(engine)
    engine.add(make_request(1, prompt_of(300, 1), 200))  # 8 of 10 blocks: runs beside what is cached
    engine.add(make_request(2, prompt_of(300, 2), 200))  # must wait, whatever is evicted
    engine.step()
    assert len(engine.scheduler.running) == 1 and len(engine.scheduler.prefix_cache) == 2
    run(engine)
    assert_all_free(engine)
