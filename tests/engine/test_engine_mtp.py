"""Engine and MTP heads together on a random model: aborts in trunk and head passes, errors, reused turns."""

import random

import numpy as np
import pytest

from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.engine.engine import Engine
from stepahead.engine.request import FinishReason
from stepahead.engine.runner import ModelRunner
from stepahead.engine.sampler import Sampler
from stepahead.engine.scheduler import Scheduler
from stepahead.errors import BackendError
from stepahead.gguf import GGUFFile
from stepahead.models.registry import load_model
from stepahead.speculative.mtp import MtpProposer
from support.toy_engine import assert_blocks_free, make_request, run_on

PROMPTS = [np.random.default_rng(number).integers(0, 200, length).tolist() for number, length in enumerate((70, 5, 33))]
NUM_NEW = 20


@pytest.fixture(scope="module")
def model_and_backend(model_path):
    file = GGUFFile.open(model_path("f32"))
    backend = ReferenceBackend()
    return load_model(file, backend, file), backend


def make(model_and_backend, max_num_seqs=3, chunk_tokens=16, context_length=192):
    model, backend = model_and_backend
    runner = ModelRunner.create(model, backend, "f32", context_length, max_num_seqs, chunk_tokens)
    proposer = MtpProposer(runner, Sampler())
    scheduler = Scheduler(runner.kv_cache, max_num_seqs, chunk_tokens, drop=proposer.forget)
    return Engine(runner, scheduler, proposer, Sampler())


@pytest.fixture(scope="module")
def alone(model_and_backend):
    """Each prompt's tokens, one at a time and without drafts."""
    engine = make(model_and_backend)
    for number, prompt in enumerate(PROMPTS):
        engine.add(make_request(number, prompt, NUM_NEW, depth=0))
        run_on(engine)
        engine.scheduler.prefix_cache.clear()
    # The outputs are gone; ask again, so that a second run is compared too.
    for number, prompt in enumerate(PROMPTS):
        engine.add(make_request(number, prompt, NUM_NEW, depth=0))
    return {number: result[0] for number, result in run_on(engine).items()}


def at_checkpoint(engine, count, action):
    """Call action() at the count-th checkpoint from now, of trunk and heads alike."""
    inner, calls = engine.runner.checkpoint, iter(range(count))

    def checkpoint():
        if next(calls, None) is None:
            engine.runner.checkpoint = inner
            action()
        inner()

    engine.runner.checkpoint = checkpoint


@pytest.mark.parametrize("count", [0, 3, 17, 25, 26, 27, 28, 29, 30, 41, 60])
def test_an_abort_costs_the_others_no_bit(model_and_backend, alone, count):
    engine = make(model_and_backend)
    for number, prompt in enumerate(PROMPTS):
        engine.add(make_request(number, prompt, NUM_NEW, depth=3))
    at_checkpoint(engine, count, lambda: engine.abort(1))
    results = run_on(engine)
    assert results[1][2] is FinishReason.ABORT or count > 40
    assert results[1][0] == alone[1][: len(results[1][0])]
    assert results[0][0] == alone[0] and results[2][0] == alone[2]
    assert_blocks_free(engine)


@pytest.mark.parametrize("count", range(0, 60, 6))
def test_an_error_in_any_pass_can_be_stepped_over(model_and_backend, alone, count):
    def fail():
        raise BackendError("lost the device")

    engine, results = make(model_and_backend), {}
    for number, prompt in enumerate(PROMPTS):
        engine.add(make_request(number, prompt, NUM_NEW, depth=3))
    at_checkpoint(engine, count, fail)
    with pytest.raises(BackendError):
        run_on(engine, results)
    run_on(engine, results)
    assert {number: result[0] for number, result in results.items()} == alone
    assert_blocks_free(engine)


@pytest.mark.parametrize("seed", range(6))
def test_random_traffic_equals_plain_decoding(model_and_backend, seed):
    """Turns that extend, edit or repeat earlier ones, aborted or not, drafted to any depth, in little memory."""
    rng = random.Random(seed)
    engine = make(model_and_backend, max_num_seqs=rng.randint(1, 3), chunk_tokens=rng.choice([5, 16, 64]))
    sequences = []
    for _ in range(80):
        if len(sequences) < 8 and rng.random() < 0.25:
            earlier = rng.choice(sequences).token_ids if sequences and rng.random() < 0.8 else []
            kept = earlier[: max(0, len(earlier) - rng.choice([0, 0, 2, 30]))]
            prompt = [*kept, *rng.choices(range(200), k=rng.randint(1, 30))][:150]
            request = make_request(len(sequences), prompt, rng.randint(1, 20), depth=rng.randint(0, 3))
            sequences.append(engine.add(request))
        if sequences and rng.random() < 0.03:
            engine.abort(rng.randrange(len(sequences)))
        engine.step()
    run_on(engine)
    assert_blocks_free(engine)
    assert any(sequence.stats.num_accepted_tokens for sequence in sequences)
    plain = make(model_and_backend)
    for number, sequence in enumerate(sequences):
        plain.scheduler.prefix_cache.clear()
        check = plain.add(make_request(number, sequence.request.prompt_ids, sequence.request.max_new_tokens, depth=0))
        run_on(plain)
        assert sequence.output_ids == check.output_ids[: sequence.num_output_tokens]
        assert sequence.num_output_tokens == check.num_output_tokens or sequence.finish_reason is FinishReason.ABORT
