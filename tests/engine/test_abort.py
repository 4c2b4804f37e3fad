"""Aborts and errors: a pass is abandoned between layers, nothing of it is committed, the others lose no bit."""

import threading

import pytest

from stepahead.engine.request import FinishReason
from stepahead.engine.sampler import Sampler
from stepahead.errors import BackendError
from support.toy_engine import (
    Letters,
    ToyProposer,
    assert_all_free,
    check_bookkeeping,
    collect,
    continuation,
    letter,
    make_engine,
    make_request,
    prompt_of,
    run,
)


def interrupt(engine, at_checkpoint, action):
    """Call action() at the n-th checkpoint from now."""
    inner, calls = engine.runner.checkpoint, iter(range(at_checkpoint))

    def checkpoint():
        if next(calls, None) is None:
            engine.runner.checkpoint = inner
            action()
        inner()

    engine.runner.checkpoint = checkpoint


def add_three(engine, **params):
    lengths = [5, 100, 40]
    for number, length in enumerate(lengths):
        engine.add(make_request(number, prompt_of(length, number), 30, **params))
    return {number: tuple(continuation(prompt_of(length, number), 30)) for number, length in enumerate(lengths)}


@pytest.mark.parametrize("at_checkpoint", [0, 1, 2, 3, 7, 12])
def test_abort_within_a_pass(at_checkpoint):
    engine = make_engine(ToyProposer(lambda position: position % 2 == 0))
    expected = add_three(engine)
    interrupt(engine, at_checkpoint, lambda: engine.abort(1))
    results = run(engine)
    assert engine.metrics.num_interruptions == 1
    tokens, _, reason = results[1]
    assert reason is FinishReason.ABORT and tokens == expected[1][: len(tokens)]
    for number in (0, 2):
        assert results[number] == (expected[number], "", FinishReason.LENGTH)
    assert_all_free(engine)


def test_an_abandoned_pass_commits_nothing():
    engine = make_engine()
    add_three(engine)
    engine.step()
    before = [list(sequence.token_ids) for sequence in engine.scheduler.running]
    passes = engine.metrics.num_trunk_passes
    interrupt(engine, 1, lambda: engine.abort(1))
    outputs = engine.step()
    assert [(output.request_id, output.finish_reason) for output in outputs] == [(1, FinishReason.ABORT)]
    assert [list(sequence.token_ids) for sequence in engine.scheduler.running] == [before[0], before[2]]
    assert engine.metrics.num_trunk_passes == passes
    check_bookkeeping(engine)


def test_abort_between_steps_interrupts_nothing():
    engine = make_engine()
    expected = add_three(engine)
    results = {}
    collect(results, engine.step())
    engine.abort(0)
    collect(results, engine.step())
    assert results[0][2] is FinishReason.ABORT
    results |= {number: result for number, result in run(engine).items() if number in (1, 2)}
    assert engine.metrics.num_interruptions == 0
    assert results[1][0] == expected[1]


def test_abort_of_a_waiting_request():
    engine = make_engine(max_num_seqs=1)
    expected = add_three(engine)
    engine.step()
    interrupt(engine, 0, lambda: engine.abort(2))
    results = run(engine)
    assert engine.metrics.num_interruptions == 0
    assert results[2] == ((), "", FinishReason.ABORT)
    assert results[1][0] == expected[1]
    assert_all_free(engine)


def test_abort_of_an_unknown_or_finished_request_does_nothing():
    engine = make_engine()
    engine.abort(99)
    engine.add(make_request(0, prompt_of(3), 2))
    run(engine)
    engine.abort(0)
    assert engine.step() == []


def test_abort_frees_at_once_and_returns_held_text():
    engine = make_engine()
    sequence = engine.add(make_request(0, prompt_of(30), 50, text=Letters("zzzz"), depth=0))
    for _ in range(5):
        engine.step()
    shown = sequence.text
    engine.abort(0)
    (output,) = engine.step()
    assert output.text_delta == "".join(map(letter, sequence.output_ids[-3:]))
    assert sequence.text == shown + output.text_delta == "".join(map(letter, sequence.output_ids))
    check_bookkeeping(engine)
    assert not engine.scheduler.has_unfinished
    assert_all_free(engine)


def test_abort_from_another_thread():
    engine = make_engine()
    expected = add_three(engine)
    inner = engine.runner.checkpoint
    reached, aborted = threading.Event(), threading.Event()

    def checkpoint():
        reached.set()
        assert aborted.wait(30)
        inner()

    def abort():
        assert reached.wait(30)
        engine.abort(0)
        aborted.set()

    thread = threading.Thread(target=abort)
    engine.runner.checkpoint = checkpoint
    thread.start()
    results = run(engine)
    thread.join()
    assert engine.metrics.num_interruptions == 1
    assert results[0] == ((), "", FinishReason.ABORT)
    assert results[1][0] == expected[1] and results[2][0] == expected[2]


@pytest.mark.parametrize("at_checkpoint", [0, 1, 5])
def test_an_error_in_a_pass_leaves_sequences_as_they_were(at_checkpoint):
    def fail():
        raise BackendError("the device is on fire")

    engine = make_engine(ToyProposer(lambda position: position % 2 == 0))
    expected = add_three(engine)
    interrupt(engine, at_checkpoint, fail)
    results = {}
    with pytest.raises(BackendError, match="on fire"):
        for _ in range(100):
            collect(results, engine.step())
    check_bookkeeping_after_error(engine)
    for number, (tokens, _, _) in run(engine).items():
        before = results.get(number, ((), "", None))[0]
        assert before + tokens == expected[number]
    assert_all_free(engine)


def check_bookkeeping_after_error(engine):
    for sequence in engine.scheduler.running:
        assert sequence.kv.num_tokens == sequence.num_computed_tokens


def test_an_error_in_verify_leaves_sequences_as_they_were():
    class FailingSampler(Sampler):
        num_calls = 0

        def sample(self, logits, state, position, shortlist=None):
            FailingSampler.num_calls += 1
            if FailingSampler.num_calls == 7:
                raise BackendError("NaN")
            return super().sample(logits, state, position, shortlist)

    engine, healthy = make_engine(chunk_tokens=512), make_engine()
    expected = add_three(engine, logprobs=1)
    sequences = [*engine.scheduler.waiting]
    engine.step()
    engine.sampler = FailingSampler()
    before = [list(sequence.token_ids) for sequence in sequences]
    with pytest.raises(BackendError):
        engine.step()
    assert [list(sequence.token_ids) for sequence in sequences] == before
    run(engine)
    add_three(healthy, logprobs=1)
    undisturbed = [*healthy.scheduler.waiting]
    run(healthy)
    for number, sequence in enumerate(sequences):
        assert tuple(sequence.output_ids) == expected[number]
        assert sequence.logprobs == undisturbed[number].logprobs
        assert len(sequence.logprobs) == 30


def test_an_error_after_commit_loses_no_output():
    class FailingProposer(ToyProposer):
        def observe(self, batch, hidden, verdicts):
            if verdicts[0] is not None and batch.rows[0].sequence.is_finished:
                raise BackendError("no memory for a hidden row")

    engine, results = make_engine(FailingProposer()), {}
    engine.add(make_request(0, prompt_of(9), 5))
    with pytest.raises(BackendError):
        while True:
            collect(results, engine.step())
    assert engine.has_unfinished
    collect(results, engine.step())
    assert results == {0: (tuple(continuation(prompt_of(9), 5)), "", FinishReason.LENGTH)}
    assert not engine.has_unfinished
    assert_all_free(engine)


def test_an_abort_is_reported_even_if_the_pass_fails():
    def fail():
        raise BackendError("lost the device")

    engine = make_engine()
    expected, first = add_three(engine), {}
    collect(first, engine.step())
    engine.abort(1)
    interrupt(engine, 0, fail)
    with pytest.raises(BackendError):
        engine.step()
    results = run(engine)
    assert results[1][2] is FinishReason.ABORT
    assert first[2][0] + results[2][0] == expected[2]
