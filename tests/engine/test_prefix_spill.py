"""What was written by one engine and read by another: text and drafts are those of a prompt that was computed."""

import random

import numpy as np
import pytest

from stepahead.backends.base import BLOCK_SIZE
from stepahead.backends.cpu.ops import CpuBackend
from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.engine import prefix_records, prefix_spill
from stepahead.engine.engine import Engine
from stepahead.engine.params import Speculation
from stepahead.engine.prefix_spill import PrefixSpill
from stepahead.engine.request import FinishReason
from stepahead.engine.runner import ModelRunner
from stepahead.engine.sampler import Sampler
from stepahead.engine.scheduler import Scheduler
from stepahead.gguf import GGUFFile
from stepahead.models.registry import load_model
from stepahead.speculative.proposer import NoProposer
from support.draft_runs import OTHER, TEXT, WINDOW, Runs, assert_same, chain_of, cold_of
from support.memory_store import MemoryStore
from support.toy_engine import make_request

ENDS = (1, WINDOW, 100, 3 * WINDOW + BLOCK_SIZE, 193, 257)
PLACES = (1, WINDOW - 1, WINDOW, WINDOW + 1, 63, 64, 65, 100, 127, 128, 129, 192, 193, 257, 299)


def loaded(path, backend):
    file = GGUFFile.open(path)
    return load_model(file, backend, file), backend


@pytest.fixture(scope="module")
def step(model_path):
    return loaded(model_path("f32"), CpuBackend(threads=1))


@pytest.fixture
def small_pieces(monkeypatch):
    """Records of two blocks; everything is worth one."""
    for module in (prefix_records, prefix_spill):
        monkeypatch.setattr(module, "PIECE_TOKENS", 2 * BLOCK_SIZE)
        monkeypatch.setattr(module, "PIECE_BLOCKS", 2)
    monkeypatch.setattr(prefix_spill, "MIN_TOKENS", 1)
    monkeypatch.setattr(prefix_spill, "MIN_DISTANCE", 1)


def written(model, speculation=None, ends=ENDS, text=TEXT, **settings):
    """A store with what one request left, and an engine that begins with that."""
    store = MemoryStore()
    first = Runs(model, speculation or chain_of(3), 1.0, store=store, **settings)
    first.run(text, ends)
    return store, first


def fresh(model, like, store, **settings):
    return Runs(model, like.speculation, like.temperature, store=store, **{"kv_type": like.kv_type, **settings})


def parted(at):
    """Parts from TEXT after `at` tokens; its length leaves no single row behind steps of 64, which would draft."""
    return (*TEXT[:at], (TEXT[at] + 1) % 200, *OTHER[: at % 7 + 2])


def assert_no_block_leaks(runs):
    scheduler, kv_cache = runs.engine.scheduler, runs.engine.runner.kv_cache
    assert not scheduler.running and not scheduler.waiting
    assert not runs.spill._restores and not runs.spill._asked
    scheduler.prefix_cache.clear()
    assert [kv_cache.num_free(group) for group in range(len(kv_cache.specs))] == list(kv_cache.num_blocks)
    assert scheduler.prefix_cache.nbytes == 0


# --- the same text and drafts ---
@pytest.mark.parametrize("chain", ["exact", "catchup"])
@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8_0"])
def test_after_a_restart_at_every_kind_of_place(step, kv_type, chain, small_pieces):
    """With a continuation that is not the writer's, each by an engine that knows nothing but what is on disk."""
    store, first = written(step, chain_of(3, chain), kv_type=kv_type)
    cold = cold_of(step, first)
    for at in PLACES:
        in_memory = Runs(step, first.speculation, 1.0, kv_type=kv_type)
        in_memory.run(TEXT, ENDS)
        expected = in_memory.run(parted(at)).num_cached_tokens
        warm = fresh(step, first, store.copy())
        sequence = warm.run(parted(at))
        # In memory a snapshot behind the place may serve, too; on disk one that is not in the same piece is not found.
        assert sequence.num_cached_tokens == (112 if at == 127 else expected), at
        assert expected > 0 or at == 64
        assert_same(warm, sequence, cold)
        assert_no_block_leaks(warm)


@pytest.mark.parametrize("seed", range(6))
def test_random_places_and_turns(step, seed, small_pieces):
    """Engines that come and go, each going on from any of the texts before."""
    rng = np.random.default_rng(seed)
    store, texts, num_known = MemoryStore(), [TEXT], 0
    cold = None
    for _ in range(6):
        runs = Runs(step, chain_of(3), 1.0, store=store)
        cold = cold or cold_of(step, runs)
        for _ in range(2):
            text = texts[rng.integers(len(texts))]
            kept = text[: rng.integers(1, len(text) + 1)]
            prompt = (*kept, *rng.integers(0, 200, rng.integers(1, 40)).tolist())[:380]
            ends = tuple(sorted(rng.integers(1, len(prompt) + 1, 4).tolist()))
            sequence = runs.run(prompt, ends)
            num_known += sequence.num_cached_tokens
            assert_same(runs, sequence, cold)
            texts.append(tuple(sequence.token_ids))
        assert_no_block_leaks(runs)
    assert num_known > 0 and runs.spill.counts.num_damaged == runs.spill.counts.num_unused == 0


@pytest.mark.parametrize("kind", [{"num_heads_mtp": 1}, {"mtp_sliding": False}])
def test_other_heads(model_path, kind, small_pieces):
    model = loaded(model_path("f32", **kind), ReferenceBackend())
    store, first = written(model, ends=(100, 193))
    cold = cold_of(model, first)
    for at in (100, 193, 290):
        warm = fresh(model, first, store)
        sequence = warm.run((*TEXT[:at], *OTHER[:5]))
        assert sequence.num_cached_tokens > 0
        assert_same(warm, sequence, cold)


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8_0"])
def test_kernels_of_one_kind_read_what_another_wrote(model_path, kv_type, small_pieces):
    """All instruction sets give the same bits, and so do their records."""
    path = model_path("f32")
    best, scalar = (loaded(path, CpuBackend(threads=1, isa=isa)) for isa in (None, "scalar"))
    (store, first), (other, _) = (written(model, kv_type=kv_type) for model in (best, scalar))
    assert store.written.keys() == other.written.keys()
    for key, record in store.written.items():
        for name, array in record.arrays.items():
            assert (array == other.written[key].arrays[name]).all()
    warm = fresh(scalar, first, store)
    sequence = warm.run(parted(257))
    assert sequence.num_cached_tokens == 257
    assert_same(warm, sequence, cold_of(best, first))


def test_records_are_the_same_whatever_was_in_the_blocks(step, small_pieces):
    store, first = written(step)
    again = Runs(step, first.speculation, 1.0, store=MemoryStore())
    again.run(OTHER * 9)
    again.engine.scheduler.prefix_cache.clear()
    again.run(TEXT, ENDS)
    other = again.spill._store
    assert store.written.keys() <= other.written.keys()
    for key, record in store.written.items():
        assert record.header.numbers == other.written[key].header.numbers
        assert {name: array.tobytes() for name, array in record.arrays.items()} == {
            name: array.tobytes() for name, array in other.written[key].arrays.items()
        }


def test_a_model_without_heads(model_path, small_pieces):
    file = GGUFFile.open(model_path("f32"))
    backend = ReferenceBackend()
    model = load_model(file, backend, None), backend
    assert model[0].draft is None
    store = MemoryStore()
    for text, expected in ((TEXT, 0), (parted(257), 257)):
        engine = plain_engine(model, store)
        sequence = engine.add(make_request(1, text, 8, depth=0, snapshot_positions=(257,)))
        while engine.has_unfinished:
            engine.step()
        assert sequence.num_cached_tokens == expected
        cold = plain_engine(model, MemoryStore())
        again = cold.add(make_request(1, text, 8, depth=0))
        while cold.has_unfinished:
            cold.step()
        assert again.output_ids == sequence.output_ids


def plain_engine(model_and_backend, store):
    runner = ModelRunner.create(*model_and_backend, "f32", 400, 2, 64)
    cache = runner.new_prefix_cache()
    spill = PrefixSpill(store, "plain", runner, cache)
    return Engine(runner, Scheduler(runner.kv_cache, 2, 64, cache=cache, spill=spill), NoProposer(), Sampler())


# --- who finds what ---
def test_another_identity_or_salt_finds_nothing(step, small_pieces):
    store, first = written(step)
    assert fresh(step, first, store).run(TEXT).num_cached_tokens == 299
    assert fresh(step, first, store, identity="other").run(TEXT).num_cached_tokens == 0
    assert fresh(step, first, store).run(TEXT, salt="a").num_cached_tokens == 0
    assert fresh(step, first, store).run(TEXT, salt="a").num_cached_tokens == 299  # its own by now


def test_a_request_that_drafts_finds_no_record_without_hidden_rows(step, small_pieces):
    store = MemoryStore()
    Runs(step, Speculation(mode="off", depth=0), 1.0, store=store).run(TEXT)
    assert not store.written


def test_little_more_than_is_cached_is_not_read(step, small_pieces, monkeypatch):
    store, first = written(step)
    monkeypatch.setattr(prefix_spill, "MIN_TOKENS", 120)
    warm = fresh(step, first, store)
    assert warm.run(parted(193)).num_cached_tokens == 193
    assert warm.run(TEXT).num_cached_tokens == 193
    assert len(store.readings) == 1


def test_pieces_in_memory_are_not_read_again(step, small_pieces):
    store, first = written(step)
    warm = fresh(step, first, store)
    assert warm.run(parted(193)).num_cached_tokens == 193
    sequence = warm.run(TEXT)
    assert sequence.num_cached_tokens == 299
    assert [len(keys) for keys in store.readings] == [2, 2]  # a piece and a snapshot; the second piece and another
    assert_same(warm, sequence, cold_of(step, first))


# --- what is written ---
@pytest.mark.parametrize(("distance", "between"), [(60, [205]), (66, [])])
def test_what_is_worth_a_record(step, monkeypatch, distance, between):
    """Of snapshots at 30, 140, 205, 300 and 307: the first message's end, if it is not too short, what lies far enough
    behind it, the prompt's end, the sequence's."""
    monkeypatch.setattr(prefix_spill, "MIN_TOKENS", 60)
    monkeypatch.setattr(prefix_spill, "MIN_DISTANCE", distance)
    store, _ = written(step, ends=(30, 140, 205))
    snapshots = [record.header for record in store.written.values() if record.header.kind == "snapshot"]
    assert sorted(len(header.token_ids) for header in snapshots) == [140, *between, 300, 307]


def test_a_second_turn_writes_only_what_is_new(step, small_pieces):
    store, first = written(step, ends=())
    before = dict(store.written)
    sequence = first.run(TEXT)  # again
    assert store.written == before or len(store.written) == len(before)
    first.run((*sequence.token_ids, *OTHER))
    new = [record.header for key, record in store.written.items() if key not in before]
    assert [header.kind for header in new].count("blocks") <= 1
    assert 1 <= len(new) <= 3


def test_short_texts_are_not_written(step):
    store, _ = written(step, text=TEXT[:200], ends=(50, 100))
    assert store.written == {}


# --- whatever goes wrong, the prompt is computed ---
def assert_computed(model, first, store, num_unused=0, num_damaged=0):
    warm = fresh(model, first, store)
    sequence = warm.run(TEXT)
    assert sequence.num_cached_tokens == 0
    assert_same(warm, sequence, cold_of(model, first))
    assert (warm.spill.counts.num_unused, warm.spill.counts.num_damaged) == (num_unused, num_damaged)
    assert_no_block_leaks(warm)


@pytest.mark.parametrize("kind", ["blocks", "snapshot"])
def test_a_damaged_record(step, kind, small_pieces):
    store, first = written(step)
    store.damaged |= {key for key, record in store.written.items() if record.header.kind == kind}
    assert_computed(step, first, store, num_damaged=1)


def _without_one(arrays):
    return dict(list(arrays.items())[1:])


def _with_another(arrays):
    return {**arrays, "more": np.zeros(3, np.uint8)}


def _shorter(arrays):
    return {name: array[:-1] for name, array in arrays.items()}


def _of_another_type(arrays):
    return {name: array.view(np.int8) for name, array in arrays.items()}


def _in_two_dimensions(arrays):
    return {name: array.reshape(1, -1) for name, array in arrays.items()}


@pytest.mark.parametrize("change", [_without_one, _with_another, _shorter, _of_another_type, _in_two_dimensions])
@pytest.mark.parametrize("kind", ["blocks", "snapshot"])
def test_arrays_that_are_not_this_models(step, kind, change, small_pieces):
    store, first = written(step)
    store.change(kind, arrays=change)
    assert_computed(step, first, store, num_unused=1)


@pytest.mark.parametrize("first_blocks", [(), (0, 0), (-1,), (1,), (99,), (10**15,)])
@pytest.mark.parametrize("hidden", [None, (), (7,), (-64,), (64,), (10**15,)])
def test_numbers_that_make_no_sense(step, first_blocks, hidden, small_pieces):
    """Either it is seen at once that they serve nobody, or when the sizes are compared."""
    store, first = written(step, ends=())
    numbers = {"first_blocks": first_blocks} | ({} if hidden is None else {"hidden": hidden})
    store.change("snapshot", numbers=numbers)
    warm = fresh(step, first, store)
    sequence = warm.run(TEXT)
    assert sequence.num_cached_tokens == 0
    assert_same(warm, sequence, cold_of(step, first))
    assert_no_block_leaks(warm)


def test_tokens_that_are_others(step, small_pieces):
    """Two texts of one key: what is compared are the tokens."""
    store, first = written(step, ends=())
    store.change("blocks", token_ids=np.zeros(128, np.int32))
    assert_computed(step, first, store)


@pytest.mark.parametrize("method", ["header", "snapshots", "read", "write"])
def test_a_store_that_raises(step, method, small_pieces):
    store, first = written(step)
    store.broken.add(method)
    warm = fresh(step, first, store)
    sequence = warm.run((*TEXT, 1))
    assert_same(warm, sequence, cold_of(step, first))
    assert (sequence.num_cached_tokens == 0) == (method != "write")
    assert_no_block_leaks(warm)


def test_a_store_that_takes_nothing(step, small_pieces):
    """It is asked again after a while, and after a longer one, for what is copied for it costs time."""
    now = 0.0
    store = MemoryStore()
    store.takes_writes = False
    runs = Runs(step, chain_of(3), 1.0, store=store)
    runs.spill._clock = lambda: now
    tried = []
    for second in range(40):
        now = float(second)
        runs.run((second, *OTHER), num_new=1)
        if runs.spill.counts.num_failed > len(tried):
            tried.append(second)
    assert tried == [0, 1, 3, 7, 15, 31]
    store.takes_writes, now = True, 100.0
    runs.run(TEXT, ENDS)
    assert runs.spill.counts.num_written == len(store.written) > 3


@pytest.mark.parametrize("cache_nbytes", [0, 1, 100_000])
def test_no_room(step, cache_nbytes, small_pieces):
    store, first = written(step)
    warm = fresh(step, first, store, cache_nbytes=cache_nbytes)
    sequence = warm.run(TEXT)
    assert_same(warm, sequence, cold_of(step, first))
    assert_no_block_leaks(warm)


# --- waiting ---
def test_others_pass_one_that_waits_for_the_disk(step, small_pieces):
    store, first = written(step)
    store.delay = 6
    warm = fresh(step, first, store)
    slow, quick = warm.add(TEXT), warm.add(OTHER)
    for _ in range(3):
        warm.engine.step()
    assert warm.engine.scheduler.running == [quick] and list(warm.engine.scheduler.waiting) == [slow]
    while warm.engine.has_unfinished:
        warm.engine.step()
    assert slow.num_cached_tokens == 299
    for sequence in (slow, quick):
        assert_same(warm, sequence, cold_of(step, first))
    assert_no_block_leaks(warm)


def test_prompts_that_arrive_together_are_read_once(step, small_pieces):
    store, first = written(step)
    store.delay = 3
    warm = fresh(step, first, store, max_num_seqs=2)
    sequences = [warm.add(TEXT) for _ in range(4)]
    while warm.engine.has_unfinished:
        warm.engine.step()
    assert [sequence.num_cached_tokens for sequence in sequences] == [299] * 4
    assert len(store.readings) == 1
    assert_no_block_leaks(warm)


def test_few_are_read_at_once(step, small_pieces):
    store = MemoryStore()
    texts = [tuple(np.random.default_rng(seed).integers(0, 200, 280).tolist()) for seed in range(5)]
    first = Runs(step, chain_of(3), 1.0, store=store)
    for text in texts:
        first.run(text)
    store.delay = 5
    warm = fresh(step, first, store)
    sequences = [warm.add(text) for text in texts]
    most = 0
    while warm.engine.has_unfinished:
        most = max(most, len(warm.spill._restores))
        warm.engine.step()
    assert most == prefix_spill.MAX_READINGS
    assert [sequence.num_cached_tokens for sequence in sequences] == [279] * 5
    assert_no_block_leaks(warm)


@pytest.fixture
def small_copies(monkeypatch):
    monkeypatch.setattr(prefix_records, "COPIED_NBYTES", 1)


def test_a_long_prefix_is_copied_in_turns(step, small_pieces, small_copies):
    """Beside those who are answered, a part between two steps."""
    store, first = written(step)
    warm = fresh(step, first, store)
    slow, quick = warm.add(TEXT), warm.add(OTHER, num_new=30)
    for _ in range(4):
        warm.engine.step()
    assert warm.engine.scheduler.running == [quick]
    (restore,) = warm.spill._restores.values()
    assert restore.steps is not None
    while warm.engine.has_unfinished:
        warm.engine.step()
    assert slow.num_cached_tokens == 299
    for sequence in (slow, quick):
        assert_same(warm, sequence, cold_of(step, first))
    assert_no_block_leaks(warm)


def test_an_abort_while_it_is_copied(step, small_pieces, small_copies):
    store, first = written(step)
    warm = fresh(step, first, store)
    warm.add(TEXT)
    for _ in range(3):
        warm.engine.step()
    warm.engine.abort(1)
    warm.engine.step()
    assert not warm.spill.is_reading
    assert_no_block_leaks(warm)


def test_who_runs_needs_the_blocks_of_what_is_copied(step, small_pieces, small_copies):
    store, first = written(step)
    warm = fresh(step, first, store, max_num_seqs=1)
    sequence = warm.add(TEXT)
    warm.engine.step()
    assert warm.spill.is_reading
    kv_cache = warm.engine.runner.kv_cache
    assert kv_cache.num_free(0) < kv_cache.num_blocks[0]
    warm.engine.scheduler._make_room()
    assert not warm.spill.is_reading and warm.spill.counts.num_unused == 1
    assert kv_cache.num_free(0) == kv_cache.num_blocks[0]
    while warm.engine.has_unfinished:
        warm.engine.step()
    assert_same(warm, sequence, cold_of(step, first))
    assert_no_block_leaks(warm)


def test_an_abort_while_waiting_for_the_disk(step, small_pieces):
    store, first = written(step)
    store.delay = 4
    warm = fresh(step, first, store)
    sequence = warm.add(TEXT)
    warm.engine.step()
    warm.engine.abort(1)
    warm.engine.step()
    assert sequence.finish_reason is FinishReason.ABORT
    while warm.spill.is_reading:
        warm.run(OTHER)
    assert_no_block_leaks(warm)
    assert warm.spill.counts.num_read == 0


@pytest.mark.parametrize("seed", range(6))
def test_random_traffic_over_a_bad_disk(step, seed, small_pieces, monkeypatch):
    """Readings that take their time, damage, refusals, aborts, little memory: every text is what it is alone."""
    monkeypatch.setattr(prefix_records, "COPIED_NBYTES", 1 << (12 + 4 * (seed % 3)))
    rng, store, sequences, cold = random.Random(seed), MemoryStore(), [], None
    for _ in range(3):
        store.delay = rng.randint(0, 8)
        runs = Runs(step, chain_of(3), 1.0, 3, store=store, cache_nbytes=rng.choice([None, 0, 200_000, 2_000_000]))
        cold, own, aborted = cold or cold_of(step, runs), [], set()
        for _ in range(40):
            if rng.random() < 0.3 and len(own) < 8:
                text = rng.choice([sequence.token_ids for sequence in sequences] + [list(TEXT)])
                prompt = [*text[: rng.randint(1, min(len(text), 340))], *rng.choices(range(200), k=rng.randint(0, 9))]
                ends = sorted(rng.sample(range(1, len(prompt) + 1), k=min(3, len(prompt))))
                own.append(runs.add(prompt, tuple(ends), salt=rng.choice(["", "", "x"])))
            if own and rng.random() < 0.1:
                victim = rng.choice(own).request.request_id
                aborted.add(victim)
                runs.engine.abort(victim)
            store.takes_writes = rng.random() < 0.8
            if store.written and rng.random() < 0.2:
                store.damaged = {rng.choice(list(store.written))}
            runs.engine.step()
        while runs.engine.has_unfinished:
            runs.engine.step()
        while runs.spill.is_reading:
            runs.run(OTHER)
        assert_no_block_leaks(runs)
        for sequence in own:
            again = cold.run(sequence.request.prompt_ids, num_new=sequence.request.max_new_tokens)
            is_whole = sequence.request.request_id not in aborted
            assert sequence.output_ids == again.output_ids[: None if is_whole else sequence.num_output_tokens]
        sequences += own


def test_nothing_is_done_while_all_wait_for_the_disk(step, small_pieces):
    store, first = written(step)
    store.delay = 10
    warm = fresh(step, first, store)
    warm.add(TEXT)
    for _ in range(5):
        assert warm.engine.step() == []
    assert warm.engine.metrics.num_steps == 0
