"""Prefix cache: a prompt that begins like an earlier text runs only what is new, with the same bits.

The toy model's text is a hash of every key that a row sees: a wrong block, window or row of a snapshot changes it.
"""

import random

import pytest

from stepahead.backends.base import BLOCK_SIZE
from stepahead.engine import scheduler as scheduler_module
from stepahead.engine.params import Speculation
from stepahead.engine.request import FinishReason
from support.toy_engine import (
    SLACK,
    WINDOW,
    ToyProposer,
    assert_all_free,
    check_bookkeeping,
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
    assert sequence.output_ids == continuation(prompt, len(sequence.output_ids))
    return sequence


@pytest.mark.parametrize("length", [5, 63, 64, 65, 150, 300])
@pytest.mark.parametrize("num_new", [1, 30])
def test_a_second_turn_runs_only_what_is_new(length, num_new):
    engine = make_engine(ToyProposer(lambda position: position % 3 != 0))
    first = finish_one(engine, 0, prompt_of(length))
    rows_before = engine.metrics.num_trunk_rows
    second = finish_one(engine, 1, [*first.token_ids, *prompt_of(num_new, 9)], depth=0)
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


HITS = sorted(
    {1, 2, SLACK, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW}
    | {n * BLOCK_SIZE + d for n in (1, 2, 3) for d in (-1, 0, 1)}
)


@pytest.mark.parametrize("at", HITS)
@pytest.mark.parametrize("ends_there", [True, False])
def test_a_hit_at_every_kind_of_length(at, ends_there):
    """The prompt parts from the first one's after `at` tokens, where a message ends or not."""
    engine = make_engine()
    text = prompt_of(260)
    engine.add(make_request(0, text, 10, snapshot_positions=(at,) if ends_there else ()))
    run(engine)
    other = [*text[:at], (text[at] + 1) % 40, *prompt_of(20, 3)]
    second = finish_one(engine, 1, other)
    if ends_there:
        assert second.num_cached_tokens == at
    again = finish_one(engine, 2, text)
    assert again.num_cached_tokens == len(text) - 1
    assert_all_free(engine)


@pytest.mark.parametrize("back", [0, 1, SLACK - 1, SLACK])
def test_a_turn_that_differs_within_the_slack_is_reused(back):
    engine = make_engine()
    first = finish_one(engine, 0, prompt_of(290), 40)
    kept = first.token_ids[: len(first.token_ids) - 1 - back]
    second = finish_one(engine, 1, [*kept, (first.token_ids[len(kept)] + 1) % 40, 2, 3])
    assert second.num_cached_tokens == len(kept)


@pytest.mark.parametrize(("at", "num_cached"), [(150, 0), (260, 0), (261, 261)])
def test_a_turn_that_differs_where_the_window_is_gone_is_recomputed(at, num_cached):
    """Of 319 tokens, blocks are held from 192 on: the row 261 is the first that sees nothing below."""
    engine = make_engine()
    first = finish_one(engine, 0, prompt_of(300), 20)
    second = finish_one(engine, 1, [*first.token_ids[:at], (first.token_ids[at] + 1) % 40, *prompt_of(50, 5)])
    assert second.num_cached_tokens == num_cached
    assert_all_free(engine)


def test_a_short_text_serves_any_part_of_itself():
    engine = make_engine()
    text = prompt_of(140)
    finish_one(engine, 0, text, 5)
    for number, at in enumerate((30, 70, 130), 1):
        assert finish_one(engine, number, [*text[:at], (text[at] + 1) % 40]).num_cached_tokens == at


def test_a_long_prompt_is_cached_on_the_way(monkeypatch):
    monkeypatch.setattr(scheduler_module, "SNAPSHOT_TOKENS", 100)
    engine = make_engine(chunk_tokens=70)
    text = prompt_of(530)
    finish_one(engine, 0, text)
    for number, at in enumerate((120, 210, 440), 1):
        other = finish_one(engine, number, [*text[:at], *prompt_of(30, number)])
        assert other.num_cached_tokens == at // 100 * 100
    assert_all_free(engine)


def test_positions_that_another_snapshot_serves_are_left_out():
    engine = make_engine()
    engine.add(make_request(0, prompt_of(200), 1, snapshot_positions=(50, 60, 199, 0, 300, 100, 117)))
    engine.step()
    (sequence,) = engine.scheduler.running
    # 200, the end; 199 is within its slack; 117 serves 100, and 60 serves 50. 60 has been passed by already.
    assert sequence.snapshot_positions == [200, 117]
    run(engine)
    assert_all_free(engine)


def test_the_longest_prefix_is_taken():
    engine = make_engine()
    shared = prompt_of(50)
    turns = [engine.add(make_request(number, [*shared, number], 10)) for number in (0, 1)]
    run(engine)
    for number, turn in enumerate(turns, 2):
        assert finish_one(engine, number, [*turn.token_ids, 7]).num_cached_tokens == len(turn.token_ids) - 1
    assert finish_one(engine, 4, [*shared, 2, 3]).num_cached_tokens == 50


def test_full_blocks_are_shared_and_the_last_one_is_copied():
    engine = make_engine()
    text = prompt_of(150)
    finish_one(engine, 0, text)
    sequences = [engine.add(make_request(number, [*text, number], 40)) for number in (1, 2, 3)]
    engine.step()
    assert [sequence.num_cached_tokens for sequence in sequences] == [150] * 3
    tables = [sequence.kv.tables[0] for sequence in sequences]
    assert tables[0][:2] == tables[1][:2] == tables[2][:2]
    assert len({table[2] for table in tables}) == 3
    check_bookkeeping(engine)
    run(engine)
    for number, sequence in enumerate(sequences, 1):
        assert sequence.output_ids == continuation([*text, number], 40)
    assert_all_free(engine)


def test_a_running_sequence_is_shared_with_others():
    engine = make_engine()
    text = prompt_of(150)
    writer = engine.add(make_request(0, text, 60))
    for _ in range(4):
        engine.step()
    assert 150 < len(writer.token_ids) < 205
    reader = engine.add(make_request(1, [*text, (writer.token_ids[150] + 1) % 40], 60))
    results = run(engine)
    assert reader.num_cached_tokens == 150
    assert results[1][0] == tuple(continuation([*text, (writer.token_ids[150] + 1) % 40], 60))
    assert writer.output_ids == continuation(text, 60)
    assert_all_free(engine)


def test_an_abort_within_a_prompt_keeps_what_was_reached(monkeypatch):
    monkeypatch.setattr(scheduler_module, "SNAPSHOT_TOKENS", 100)
    engine = make_engine(chunk_tokens=64)
    text = prompt_of(400)
    engine.add(make_request(0, text, 10))
    for _ in range(4):
        engine.step()
    engine.abort(0)
    run(engine)
    assert finish_one(engine, 1, text).num_cached_tokens == 200
    assert_all_free(engine)


@pytest.mark.parametrize("num_right", [0, 1, 2, 3])
def test_a_rejection_just_before_the_end_leaves_no_trace(num_right):
    """Rejected rows lie in the very block that the snapshot keeps."""
    for length in (58, 60, 61, 62, 63, 124, 127):
        engine = make_engine(ToyProposer(lambda position, end=length + 6 + num_right: position < end))
        first = finish_one(engine, 0, prompt_of(length), 10)
        second = finish_one(engine, 1, [*first.token_ids, 5, 6, 7])
        assert second.num_cached_tokens == len(first.token_ids) - 1
        assert_all_free(engine)


def test_an_end_inside_a_draft_keeps_what_was_taken():
    engine = make_engine()
    tokens = continuation(prompt_of(30), 8)
    end = next(token for token in tokens[2:] if tokens.index(token) >= 2)
    first = finish_one(engine, 0, prompt_of(30), 50, end_ids={end})
    assert first.finish_reason is FinishReason.STOP
    second = finish_one(engine, 1, [*first.token_ids, 5, 6])
    assert second.num_cached_tokens == len(first.token_ids) - 1


def test_every_sequence_begins_and_is_forgotten():
    engine = make_engine()
    first = finish_one(engine, 0, prompt_of(30))
    second = finish_one(engine, 1, [*first.token_ids, 3])
    assert engine.proposer.events == [
        ("begin", 0, 0),
        ("forget", first.kv.kv_id),
        ("begin", 1, len(first.token_ids) - 1),
        ("forget", second.kv.kv_id),
    ]


def test_what_was_taken_without_hidden_rows_serves_no_draft():
    class Forgetful(ToyProposer):
        def begin(self, sequence):
            self.known[sequence.kv.kv_id] = sequence.kv.num_tokens

        def observe(self, batch, hidden, verdicts):
            super().observe(batch, hidden, verdicts)
            for rows in batch.rows:
                for snapshot in rows.sequence.snapshots:
                    snapshot.hidden = None

    engine = make_engine(Forgetful())
    finish_one(engine, 0, prompt_of(100))
    assert finish_one(engine, 1, prompt_of(100)).num_cached_tokens == 0
    assert len(engine.scheduler.prefix_cache) == 2  # those of the first were as good
    off = make_request(2, prompt_of(100), 10, speculation=Speculation(mode="off"), depth=0)
    engine.add(off)
    run(engine)
    assert engine.metrics.num_reused_tokens == 99


# --- memory ---
def test_the_least_recently_used_goes_first():
    engine = make_engine(cache_nbytes=8)  # each text: a block of two groups for each of two snapshots, shared
    turns = [finish_one(engine, number, prompt_of(20, number)) for number in range(4)]
    assert len(engine.scheduler.prefix_cache) == 8
    finish_one(engine, 4, turns[0].token_ids)
    finish_one(engine, 5, prompt_of(20, 5))
    assert engine.scheduler.prefix_cache.num_evicted > 0
    assert finish_one(engine, 6, [*turns[3].token_ids, 1]).num_cached_tokens > 0
    assert finish_one(engine, 7, [*turns[1].token_ids, 1]).num_cached_tokens == 0
    assert_all_free(engine)


def test_a_cache_too_small_for_one_snapshot_stays_empty():
    engine = make_engine(cache_nbytes=1)
    first = finish_one(engine, 0, prompt_of(200))
    assert len(engine.scheduler.prefix_cache) == 0 == engine.scheduler.prefix_cache.nbytes
    assert finish_one(engine, 1, [*first.token_ids, 1]).num_cached_tokens == 0
    assert_all_free(engine)


def test_what_is_cached_makes_room_for_what_runs():
    engine = make_engine(num_blocks=(6, 64, 64), max_num_seqs=2, chunk_tokens=64)
    finish_one(engine, 0, prompt_of(100), 28)  # 2 blocks
    finish_one(engine, 1, prompt_of(60, 1), 4)  # 1 block
    assert engine.scheduler.prefix_cache.num_pinned(0) == 3
    finish_one(engine, 2, prompt_of(200, 2), 120)  # 5 blocks: the older text must go
    assert finish_one(engine, 3, prompt_of(100), 2).num_cached_tokens == 0
    assert engine.metrics.num_snapshots_evicted == engine.scheduler.prefix_cache.num_evicted > 0
    assert engine.metrics.num_snapshots == len(engine.scheduler.prefix_cache)
    assert_all_free(engine)


def test_what_is_in_use_outlives_its_eviction():
    """The last free blocks are wanted by the very sequence that goes on from what is evicted for it."""
    engine = make_engine(num_blocks=(6, 64, 64), max_num_seqs=2)
    first = finish_one(engine, 0, prompt_of(100), 28)
    finish_one(engine, 1, prompt_of(60, 1), 4)
    second = finish_one(engine, 2, [*first.token_ids, *prompt_of(100, 3)], 150)  # all 6 blocks
    assert second.num_cached_tokens == 127
    assert_all_free(engine)


def test_a_copy_finds_room_in_what_it_copies():
    """No block is free: the snapshot that was hit goes, and its last block needs no copy then."""
    engine = make_engine(num_blocks=(2, 64, 64), max_num_seqs=1, chunk_tokens=64)
    text = prompt_of(100)
    finish_one(engine, 0, text, 28)
    copied = []
    inner = engine.scheduler.copy_block
    engine.scheduler.copy_block = lambda group, old, new: (copied.append(group), inner(group, old, new))
    second = finish_one(engine, 1, text, 20)
    assert second.num_cached_tokens == 99
    assert copied == []
    assert_all_free(engine)


def test_shared_blocks_are_reserved_once():
    text = prompt_of(256)  # 4 blocks
    engine = make_engine(num_blocks=(8, 64, 64), max_num_seqs=4)
    finish_one(engine, 0, text, 1)
    sequences = [engine.add(make_request(number, [*text, number], 60)) for number in range(1, 5)]  # 5 blocks each
    engine.step()
    assert len(engine.scheduler.running) == 4
    run(engine)
    for number, sequence in enumerate(sequences, 1):
        assert sequence.output_ids == continuation([*text, number], 60)
    assert_all_free(engine)


def test_a_block_that_is_not_full_is_reserved_for_each():
    engine = make_engine(num_blocks=(2, 64, 64), max_num_seqs=2, chunk_tokens=128)
    engine.add(make_request(0, prompt_of(100), 28))
    engine.step()
    assert len(engine.scheduler.prefix_cache) == 1
    engine.add(make_request(1, prompt_of(100), 28))  # one block shared, one its own: 3 in all
    engine.step()
    assert len(engine.scheduler.running) == 1
    run(engine)
    assert_all_free(engine)


def test_sequences_that_share_nothing_wait():
    engine = make_engine(num_blocks=(8, 64, 64), max_num_seqs=4)
    for number in range(4):
        engine.add(make_request(number, prompt_of(257, number), 60))  # 5 blocks each
    engine.step()
    assert len(engine.scheduler.running) == 1
    run(engine)
    assert_all_free(engine)


@pytest.mark.parametrize("seed", range(12))
def test_random_traffic_in_little_memory(seed, monkeypatch):
    """Texts that branch, repeat, end early and run side by side: none waits for ever, none differs by a token."""
    monkeypatch.setattr(scheduler_module, "SNAPSHOT_TOKENS", 90)
    rng = random.Random(seed)
    engine = make_engine(
        ToyProposer(lambda position: position % 4 != seed % 4),
        max_num_seqs=rng.randint(1, 4),
        num_blocks=(rng.randint(8, 20), rng.randint(8, 20), rng.randint(0, 12)),
        cache_nbytes=rng.choice([None, 6, 14, 30]),
    )
    sequences, aborted = [], set()
    for _ in range(150):
        if rng.random() < 0.3 and len(sequences) < 30:
            earlier = rng.choice(sequences).token_ids if sequences and rng.random() < 0.85 else []
            kept = earlier[: rng.randint(0, len(earlier))] if rng.random() < 0.5 else earlier
            prompt = [*kept, *rng.choices(range(40), k=rng.randint(1, 90))][:380]
            ends = tuple(rng.sample(range(len(prompt) + 1), k=min(3, len(prompt))))
            request = make_request(
                len(sequences), prompt, rng.randint(1, 60), depth=rng.randint(0, 3), snapshot_positions=ends
            )
            sequences.append(engine.add(request))
        if sequences and rng.random() < 0.05:
            aborted.add(rng.randrange(len(sequences)))
            engine.abort(max(aborted))
        engine.step()
        check_bookkeeping(engine)
    run(engine)
    assert len(sequences) == 30
    assert engine.metrics.num_reused_tokens > 0
    for sequence in sequences:
        assert sequence.output_ids == continuation(sequence.request.prompt_ids, sequence.num_output_tokens)
        assert sequence.finish_reason is FinishReason.LENGTH or sequence.request.request_id in aborted
    assert_all_free(engine)
