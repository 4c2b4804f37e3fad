"""Cycles that run ahead of the host change no token, no statistic of drafts and no block, whatever ends them.

The device is a stand-in that runs passes of the host's (support/host_cycles.py); the model a random one.
"""

import random

import numpy as np
import pytest

from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.engine.cycle_queue import CycleQueue
from stepahead.engine.engine import Engine
from stepahead.engine.params import Speculation
from stepahead.engine.replay import Replay
from stepahead.engine.request import FinishReason, Request
from stepahead.engine.runner import ModelRunner
from stepahead.engine.sampler import Sampler
from stepahead.engine.scheduler import Scheduler
from stepahead.errors import BackendError
from stepahead.gguf import GGUFFile
from stepahead.models.registry import load_model
from stepahead.speculative.arbiter import Arbiter
from stepahead.speculative.cycle_planner import CyclePlanner
from stepahead.speculative.mtp import MtpProposer
from support.drafting_world import SEED
from support.host_cycles import HostCycles
from support.toy_engine import assert_blocks_free, collect, make_request, run_on

PROMPTS = [np.random.default_rng(number).integers(0, 200, length).tolist() for number, length in enumerate((70, 5, 33))]
NUM_NEW = 24


@pytest.fixture(scope="module")
def model_and_backend(model_path):
    file = GGUFFile.open(model_path("f32"))
    backend = ReferenceBackend()
    return load_model(file, backend, file), backend


def make(model_and_backend, has_cycles=True, max_num_seqs=3, chunk_tokens=16, context_length=192, measure=None):
    model, backend = model_and_backend
    runner = ModelRunner.create(model, backend, "f32", context_length, max_num_seqs, chunk_tokens)
    mtp, metrics = MtpProposer(runner, Sampler()), runner.metrics

    def clock():
        """A pass and its rows take what they do in SEED, about."""
        return 1e-3 * (0.4 * metrics.num_trunk_passes + 0.07 * metrics.num_trunk_rows + 0.12 * metrics.num_draft_passes)

    arbiter = Arbiter(mtp, measure, runner, clock)
    scheduler = Scheduler(runner.kv_cache, max_num_seqs, chunk_tokens, drop=arbiter.forget)
    queue = None
    if has_cycles:
        runner.cycles = HostCycles(model, backend, runner.kv)
        queue = CycleQueue(runner.cycles, CyclePlanner(arbiter, mtp, clock), scheduler, metrics)
    return Engine(runner, scheduler, arbiter, Sampler(), cycles=queue)


def fixed(depth):
    return Speculation("mtp", depth, adaptive=False) if depth else Speculation("off")


def request(number, prompt, num_new=NUM_NEW, depth=2, **options):
    return make_request(number, prompt, num_new, depth=depth, speculation=fixed(depth), seed=number, **options)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("num_sequences", [1, 3])
def test_cycles_say_and_draft_what_steps_do(model_and_backend, depth, num_sequences, temperature):
    found = []
    for has_cycles in (False, True):
        engine = make(model_and_backend, has_cycles)
        sequences = [
            engine.add(request(number, prompt, depth=depth, temperature=temperature, top_k=20))
            for number, prompt in enumerate(PROMPTS[:num_sequences])
        ]
        results = run_on(engine)
        found.append((results, [sequence.stats for sequence in sequences], engine.metrics.num_by_accepted))
        assert_blocks_free(engine)
    cycles = engine.runner.cycles
    assert found[0] == found[1]
    assert cycles.num_launched >= 5 and cycles.num_ahead >= cycles.num_launched - cycles.num_begun - 1


def test_one_cycle_is_always_ahead(model_and_backend):
    engine = make(model_and_backend)
    engine.add(request(0, PROMPTS[1], depth=0))
    seen = []
    while engine.has_unfinished:
        engine.step()
        seen.append(engine.runner.cycles.num_launched)
    # The prompt, then two launches and one digested, then one of each; the last token is that of the last cycle.
    assert seen == [0, *range(2, NUM_NEW), NUM_NEW - 1]


@pytest.mark.parametrize("ends", ["token", "text", "limit"])
def test_what_ran_beyond_the_end_never_happened(model_and_backend, ends):
    plain = run_plain(model_and_backend, PROMPTS[0])
    text = Spelling(stop=chr(plain[9])) if ends == "text" else None
    options = {"token": {"end_ids": (plain[9],)}, "text": {"text": text}, "limit": {}}[ends]
    engine = make(model_and_backend)
    sequence = engine.add(request(0, PROMPTS[0], num_new=10 if ends == "limit" else NUM_NEW, **options))
    run_on(engine)
    end = plain.index(plain[9]) + 1
    assert sequence.output_ids == plain[: 10 if ends == "limit" else end]
    assert sequence.finish_reason is (FinishReason.LENGTH if ends == "limit" else FinishReason.STOP)
    assert sequence.stats.num_accepted_tokens <= len(sequence.output_ids)
    # And the next turn goes on from what was kept, as from a prompt that was computed.
    prompt = (*sequence.token_ids, 5, 6)
    after = engine.add(request(1, prompt))
    run_on(engine)
    assert after.num_cached_tokens == len(sequence.token_ids) - 1
    cold = make(model_and_backend, has_cycles=False)
    expected = cold.add(request(1, prompt))
    run_on(cold)
    assert after.output_ids == expected.output_ids
    assert after.stats.num_accepted_tokens_per_pos == expected.stats.num_accepted_tokens_per_pos
    assert_blocks_free(engine)


class Spelling:
    """A character a token, up to a stop string."""

    def __init__(self, stop):
        self.stop, self.stopped, self.matched_stop = stop, False, None

    def push(self, token_id):
        if chr(token_id) == self.stop:
            self.stopped, self.matched_stop = True, self.stop
            return ""
        return chr(token_id)

    def flush(self):
        return ""


def run_plain(model_and_backend, prompt, num_new=NUM_NEW):
    engine = make(model_and_backend, has_cycles=False)
    sequence = engine.add(request(0, prompt, num_new, depth=0))
    run_on(engine)
    return sequence.output_ids


def test_a_token_that_the_device_cannot_choose_is_the_hosts(model_and_backend):
    engine = make(model_and_backend)
    cycles = engine.runner.cycles
    cycles.undecided = {len(PROMPTS[0]) + 7, len(PROMPTS[2]) + 12}
    sequences = [engine.add(request(number, PROMPTS[number])) for number in (0, 2)]
    run_on(engine)
    assert cycles.num_begun >= 3
    for sequence in sequences:
        expected = make(model_and_backend, has_cycles=False)
        same = expected.add(request(sequence.request.request_id, sequence.request.prompt_ids))
        run_on(expected)
        assert sequence.output_ids == same.output_ids
    assert_blocks_free(engine)


def test_an_error_on_the_device_can_be_stepped_over(model_and_backend):
    engine, results = make(model_and_backend), {}
    engine.runner.cycles.fail_at = {4: BackendError("lost the device")}
    for number, prompt in enumerate(PROMPTS[:2]):
        engine.add(request(number, prompt))
    with pytest.raises(BackendError):
        run_on(engine, results)
    run_on(engine, results)
    plain = make(model_and_backend, has_cycles=False)
    for number, prompt in enumerate(PROMPTS[:2]):
        plain.add(request(number, prompt))
    assert results == run_on(plain)
    assert_blocks_free(engine)


def test_an_error_in_a_commit_can_be_stepped_over(model_and_backend):
    """What was launched after it went on from tokens that nobody has."""
    engine, results = make(model_and_backend), {}
    engine.add(request(0, PROMPTS[0]))
    while engine.runner.cycles.num_launched < 4:
        collect(results, engine.step())
    commit = engine.scheduler.commit

    def fail(*_):
        engine.scheduler.commit = commit
        raise BackendError("no commit")

    engine.scheduler.commit = fail
    with pytest.raises(BackendError):
        engine.step()
    assert run_on(engine, results)[0][0] == tuple(run_plain(model_and_backend, PROMPTS[0]))
    assert_blocks_free(engine)


@pytest.mark.parametrize("depth", [0, 2])
def test_whoever_listens_hears_of_cycles_as_of_steps(model_and_backend, depth):
    found = []
    for has_cycles in (False, True):
        engine, traces = make(model_and_backend, has_cycles), []
        engine.proposer.on_step = traces.append
        engine.add(request(0, PROMPTS[0], depth=depth))
        run_on(engine)
        assert [trace.step for trace in traces] == sorted({trace.step for trace in traces})
        assert all(trace.actual_ms > 0.0 for trace in traces)
        found.append([(each.position, each.num_rows, each.source, each.depth, each.num_accepted) for each in traces])
    assert found[0] == found[1]
    assert engine.runner.cycles.num_launched >= 5


@pytest.mark.parametrize("rates", [(0.9, 0.8, 0.7), (0.1,)])
def test_priced_requests_take_cycles_and_steps(model_and_backend, rates):
    """Drafts are as right as asked for, so that cycles of some depth pay, or of none."""
    recorded = tuple(np.random.default_rng(3).integers(0, 200, 90).tolist())
    engine = make(model_and_backend, measure=lambda: SEED)
    engine.proposer.prepare()
    asked = make_request(0, PROMPTS[0], len(recorded), depth=15, speculation=Speculation())
    fields = {name: getattr(asked, name) for name in asked.__dataclass_fields__}
    sequence = engine.add(Request(**fields | {"replay": Replay(recorded, len(PROMPTS[0]), rates, seed=4)}))
    run_on(engine)
    assert sequence.output_ids == list(recorded)
    assert 5 < engine.runner.cycles.num_launched < engine.metrics.num_steps
    assert (sequence.stats.num_accepted_tokens > 20) == (rates[0] > 0.5)


def test_one_ends_and_the_other_goes_on(model_and_backend):
    plain = run_plain(model_and_backend, PROMPTS[0])
    engine = make(model_and_backend)
    ended = engine.add(request(0, PROMPTS[0], end_ids=(plain[7],)))
    other = engine.add(request(1, PROMPTS[1]))
    run_on(engine)
    assert ended.output_ids == plain[: plain.index(plain[7]) + 1]
    assert other.output_ids == run_plain(model_and_backend, PROMPTS[1])
    assert_blocks_free(engine)


def test_blocks_of_cycles_on_their_way_are_nobody_elses(model_and_backend):
    """All reach the end of a block in the same cycles, so that what one gave back another would claim."""
    prompts = [np.random.default_rng(number).integers(0, 200, 52).tolist() for number in (7, 8, 9)]
    engine = make(model_and_backend, chunk_tokens=256)
    sequences = [engine.add(request(number, prompt, depth=0)) for number, prompt in enumerate(prompts)]
    run_on(engine)
    assert [sequence.output_ids for sequence in sequences] == [run_plain(model_and_backend, each) for each in prompts]
    assert_blocks_free(engine)


def test_a_newcomer_is_let_in_and_cycles_go_on(model_and_backend):
    engine = make(model_and_backend)
    first = engine.add(request(0, PROMPTS[0]))
    while first.num_output_tokens < 6:
        engine.step()
    begun = engine.runner.cycles.num_begun
    second = engine.add(request(1, PROMPTS[1]))
    run_on(engine)
    assert engine.runner.cycles.num_begun > begun
    assert [first.output_ids[:5], second.output_ids[:5]] == [run_plain(model_and_backend, p)[:5] for p in PROMPTS[:2]]


@pytest.mark.parametrize(
    "options",
    [{"logprobs": 2}, {"repetition_penalty": 1.2}, {"logit_bias": {3: 1.0}}],
    ids=["logprobs", "penalty", "bias"],
)
def test_what_needs_the_host_is_left_to_it(model_and_backend, options):
    engine = make(model_and_backend)
    engine.add(request(0, PROMPTS[0], **options))
    run_on(engine)
    assert engine.runner.cycles.num_launched == 0


@pytest.mark.parametrize("rates", [None, (1.0, 1.0), (0.0,), (0.7, 0.4)])
def test_a_recorded_text_is_replayed_in_cycles(model_and_backend, rates):
    found = []
    for has_cycles in (False, True):
        engine = make(model_and_backend, has_cycles)
        recorded = tuple(np.random.default_rng(3).integers(0, 200, NUM_NEW).tolist())
        asked = request(0, PROMPTS[1])
        fields = {name: getattr(asked, name) for name in asked.__dataclass_fields__}
        sequence = engine.add(Request(**fields | {"replay": Replay(recorded, len(PROMPTS[1]), rates, seed=4)}))
        run_on(engine)
        assert sequence.output_ids == list(recorded)
        found.append(sequence.stats)
    assert found[0] == found[1]
    assert engine.runner.cycles.num_launched > 3


@pytest.mark.parametrize("seed", range(5))
def test_random_traffic_equals_plain_decoding(model_and_backend, seed):
    """Turns that extend, edit or repeat earlier ones, aborted or not, at any depth, in little memory."""
    rng = random.Random(seed)
    engine = make(model_and_backend, max_num_seqs=rng.randint(1, 3), chunk_tokens=rng.choice([5, 16, 64]))
    engine.runner.cycles.undecided = set(rng.choices(range(200), k=3))
    sequences = []
    for _ in range(70):
        if len(sequences) < 7 and rng.random() < 0.15:
            earlier = rng.choice(sequences).token_ids if sequences and rng.random() < 0.8 else []
            kept = earlier[: max(0, len(earlier) - rng.choice([0, 0, 2, 30]))]
            prompt = [*kept, *rng.choices(range(200), k=rng.randint(1, 30))][:150]
            depth = rng.choice([0, 2, 2, 3])
            sequences.append(engine.add(request(len(sequences), prompt, rng.randint(1, 25), depth=depth)))
        if sequences and rng.random() < 0.03:
            engine.abort(rng.randrange(len(sequences)))
        engine.step()
    run_on(engine)
    assert_blocks_free(engine)
    assert engine.runner.cycles.num_launched > 10
    plain = make(model_and_backend, has_cycles=False)
    for number, sequence in enumerate(sequences):
        plain.scheduler.prefix_cache.clear()
        check = plain.add(request(number, sequence.request.prompt_ids, sequence.request.max_new_tokens, depth=0))
        run_on(plain)
        assert sequence.output_ids == check.output_ids[: sequence.num_output_tokens]
        assert sequence.num_output_tokens == check.num_output_tokens or sequence.finish_reason is FinishReason.ABORT
