"""Prompts that begin alike and arrive together: what they share is computed once; each has the text it has alone."""

import random
from contextlib import suppress

import pytest

from stepahead.engine import held_prompts
from stepahead.engine.params import Speculation
from stepahead.engine.request import FinishReason
from support.toy_engine import (
    SLACK,
    ToyProposer,
    assert_all_free,
    check_bookkeeping,
    continuation,
    make_engine,
    make_request,
    prompt_of,
    run,
)

TEXT = prompt_of(700)
OFF = Speculation(mode="off")


def parting(length, seed, text=TEXT):
    """A prompt whose first `length` tokens are those of `text`, and 20 more; those of other seeds part there, too."""
    return (*text[:length], (text[length] + 1 + seed) % 40, *prompt_of(19, seed))


def added(engine, prompts, num_new=10, **params):
    numbers = range(len(engine._unfinished), len(engine._unfinished) + len(prompts))
    requests = [
        make_request(number, prompt, num_new, **params) for number, prompt in zip(numbers, prompts, strict=True)
    ]
    return [engine.add(request) for request in requests]


def finish(engine, sequences):
    run(engine)
    for sequence in sequences:
        assert sequence.output_ids == continuation(sequence.request.prompt_ids, sequence.num_output_tokens)
    assert_all_free(engine)


def test_choices_of_one_prompt_are_computed_once():
    engine = make_engine(max_num_seqs=8, context_length=4096, chunk_tokens=256)
    sequences = added(engine, [prompt_of(2000)] * 8, depth=0)
    finish(engine, sequences)
    assert [sequence.num_cached_tokens for sequence in sequences] == [0] + 7 * [1999]
    assert engine.metrics.num_trunk_rows == 2000 + 7 + 8 * 9
    assert engine.scheduler.held_prompts.num_held == 7


def test_a_common_beginning_is_computed_once():
    engine = make_engine(max_num_seqs=8)
    sequences = added(engine, [parting(500, seed) for seed in range(8)], depth=0)
    finish(engine, sequences)
    assert [sequence.num_cached_tokens for sequence in sequences] == [0] + 7 * [500]
    assert engine.metrics.num_trunk_rows == 520 + 7 * 20 + 8 * 9


@pytest.mark.parametrize("order", [(500, 600, 700), (700, 600, 500), (600, 700, 500)])
def test_each_waits_for_who_is_furthest(order):
    """Whatever comes first, no token is run twice but the last ones of prompts."""
    engine = make_engine()
    sequences = added(engine, [TEXT[:length] for length in order], depth=0)
    finish(engine, sequences)
    assert 700 <= engine.metrics.num_trunk_rows - 3 * 9 <= 702


def test_one_that_comes_later_waits_too():
    engine = make_engine(max_num_seqs=3)
    (first,) = added(engine, [TEXT], depth=0)
    engine.step(), engine.step()
    assert first.num_computed_tokens == 128
    late, too_late = added(engine, [parting(400, 1), parting(100, 2)], depth=0)
    engine.step()
    assert engine.scheduler.running == [first, too_late]
    finish(engine, [first, late, too_late])
    assert (late.num_cached_tokens, too_late.num_cached_tokens) == (400, 0)


def test_others_pass_one_that_waits():
    engine = make_engine(max_num_seqs=3)
    first, held, other, last = added(engine, [TEXT, TEXT, prompt_of(30, 1), prompt_of(300, 2)])
    engine.step()
    assert engine.scheduler.running == [first, other, last]
    assert list(engine.scheduler.waiting) == [held]
    finish(engine, [first, held, other, last])


def test_one_that_waits_is_next_once_it_can():
    """Others that came later take no place of its own for ever."""
    engine = make_engine(max_num_seqs=2, context_length=4096)
    first, held = added(engine, [prompt_of(500), prompt_of(500)])
    begun, number = [], 100
    engine.scheduler.on_admit, inner = lambda sequence: (begun.append(sequence), inner(sequence)), engine._begin
    while held not in begun:
        number += 1
        engine.add(make_request(number, prompt_of(40, number), 3))
        engine.step()
        assert len(engine._unfinished) < 40
    assert first in begun
    run(engine)
    assert_all_free(engine)


@pytest.mark.parametrize("length", [1, 40, 63, 64])
def test_short_prompts_do_not_wait(length):
    engine = make_engine()
    sequences = added(engine, [TEXT[:length]] * 4)
    engine.step()
    assert engine.scheduler.running == sequences
    finish(engine, sequences)
    assert engine.scheduler.held_prompts.num_held == 0


def test_what_is_known_already_is_not_waited_for():
    engine = make_engine()
    finish_first = added(engine, [TEXT[:640]])
    run(engine)
    sequences = added(engine, [TEXT, TEXT])  # 60 tokens more than are known
    engine.step()
    assert engine.scheduler.running == sequences
    finish(engine, [*finish_first, *sequences])


def test_salts_do_not_wait_for_each_other():
    engine = make_engine()
    sequences = [engine.add(make_request(number, TEXT, 5, cache_salt=salt)) for number, salt in enumerate("abab")]
    engine.step()
    assert engine.scheduler.running == sequences[:2]
    finish(engine, sequences)
    assert [sequence.num_cached_tokens for sequence in sequences] == [0, 0, 699, 699]


@pytest.mark.parametrize(("first", "second", "is_held"), [(OFF, None, False), (None, OFF, True), (OFF, OFF, True)])
def test_hidden_rows_are_waited_for_where_they_are_kept(first, second, is_held):
    engine = make_engine()
    sequences = [
        engine.add(make_request(number, TEXT, 5, depth=0, speculation=speculation))
        for number, speculation in enumerate((first, second))
    ]
    engine.step()
    assert (sequences[1] in engine.scheduler.waiting) == is_held
    run(engine)
    assert sequences[1].num_cached_tokens == (699 if is_held else 0)


@pytest.mark.parametrize("back", [0, 1, SLACK - 1, SLACK, SLACK + 1])
def test_a_snapshot_near_by_is_enough(back):
    engine = make_engine()
    first, second = added(engine, [TEXT, parting(699 - back, 1)], depth=0)
    engine.step()
    assert first.snapshot_positions == ([700] if back < SLACK else [700, 699 - back])
    finish(engine, [first, second])
    assert second.num_cached_tokens == 699 - back


# --- those who are waited for, and fail ---
def test_an_abort_frees_who_waits():
    engine = make_engine()
    first, *others = added(engine, [TEXT] * 4, depth=0)
    engine.step()
    engine.abort(0)
    engine.step()
    assert engine.scheduler.running == others[:1]
    finish(engine, others)
    assert first.finish_reason is FinishReason.ABORT
    assert engine.metrics.num_trunk_rows == 64 + 700 + 2 + 3 * 9


def test_an_abort_of_one_that_waits():
    engine = make_engine()
    first, second, third = added(engine, [TEXT] * 3)
    engine.step()
    engine.abort(1)
    engine.step()
    assert second.finish_reason is FinishReason.ABORT
    assert engine.scheduler.held_prompts._holds.keys() == {third.kv.kv_id}
    finish(engine, [first, third])
    assert not engine.scheduler.held_prompts._holds and not engine.scheduler.held_prompts._common


def test_a_step_that_fails_changes_nothing():
    engine = make_engine()
    sequences = added(engine, [TEXT] * 3, depth=0)
    forward, calls = engine.runner.forward, []

    def failing(batch):
        calls.append(batch)
        if len(calls) % 3 == 2:
            raise RuntimeError("no luck")
        return forward(batch)

    engine.runner.forward = failing
    for _ in range(100):
        with suppress(RuntimeError):
            engine.step()
    finish(engine, sequences)
    assert engine.metrics.num_trunk_rows == 700 + 2 + 3 * 9


@pytest.mark.parametrize("cache_nbytes", [0, 1, 9])
def test_nobody_waits_for_what_cannot_be_kept(cache_nbytes):
    engine = make_engine(cache_nbytes=cache_nbytes)
    sequences = added(engine, [TEXT] * 2)
    engine.step()
    assert engine.scheduler.running == sequences
    finish(engine, sequences)


def test_prompts_are_compared_once(monkeypatch):
    compared = []
    inner = held_prompts._common_len
    monkeypatch.setattr(held_prompts, "_common_len", lambda a, b: (compared.append(1), inner(a, b))[1])
    engine = make_engine(max_num_seqs=8)
    finish(engine, added(engine, [parting(300 + seed, seed) for seed in range(6)]))
    assert len(compared) <= 15  # pairs


@pytest.mark.parametrize("length", [0, 1, 1023, 1024, 1025, 3000, 5000])
def test_lengths_of_what_is_common(length):
    text = prompt_of(5000)
    assert held_prompts._common_len(text, (*text[:length], 41, *text[length:])) == length
    assert held_prompts._common_len(text[:length], text) == length


@pytest.mark.parametrize("seed", range(16))
def test_random_arrivals(seed):
    """Families of prompts at any time: all are answered, as each would be alone, and no step holds more than it may."""
    rng = random.Random(seed)
    engine = make_engine(
        ToyProposer(lambda position: position % 4 != seed % 4),
        max_num_seqs=rng.randint(1, 5),
        num_blocks=(rng.randint(12, 40), rng.randint(12, 30), rng.randint(0, 12)),
        cache_nbytes=rng.choice([None, None, 20, 60]),
        max_step_ms=rng.choice([None, 20.0]),
        row_ms=1.0,
    )
    families = [prompt_of(500, seed) for seed in range(3)]
    sequences, aborted = [], set()
    for _ in range(120):
        if rng.random() < 0.4 and len(sequences) < 40:
            family = rng.choice(families)[: rng.randint(1, 500)]
            prompt = (*family, *rng.choices(range(40), k=rng.choice([0, 0, 1, 30])))
            speculation = OFF if rng.random() < 0.2 else None
            request = make_request(
                len(sequences), prompt, rng.randint(1, 30), depth=rng.randint(0, 3) if speculation is None else 0,
                cache_salt=rng.choice(["", "", "x"]), speculation=speculation,
            )  # fmt: skip
            sequences.append(engine.add(request))
        if sequences and rng.random() < 0.08:
            aborted.add(rng.randrange(len(sequences)))
            engine.abort(max(aborted))
        engine.step()
        check_bookkeeping(engine)
    run(engine, 4000)
    for sequence in sequences:
        assert sequence.output_ids == continuation(sequence.request.prompt_ids, sequence.num_output_tokens)
        assert sequence.finish_reason is FinishReason.LENGTH or sequence.request.request_id in aborted
    assert not engine.scheduler.held_prompts._holds and not engine.scheduler.held_prompts._common
    assert_all_free(engine)
