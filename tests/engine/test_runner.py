"""ModelRunner: what the model gets to see."""

from dataclasses import replace

import numpy as np
import pytest

from stepahead.backends.base import BLOCK_SIZE
from stepahead.engine.batch import RowSpan, attention_rows
from stepahead.engine.request import Draft
from stepahead.engine.runner import ModelRunner
from stepahead.models.model import ForwardOutput
from support.toy_engine import SLACK, SPECS, VOCAB, ToyBackend, ToyModel, make_engine, make_request, prompt_of


class RecordingBackend(ToyBackend):
    def __init__(self):
        self.made = []
        self.num_steps = 0

    def new_kv(self, num_blocks, num_kv_heads, head_dim, kv_type):
        self.made.append((num_blocks, num_kv_heads, head_dim, kv_type))
        return super().new_kv(num_blocks, num_kv_heads, head_dim, kv_type)

    def begin_step(self):
        self.num_steps += 1


def make_runner(**kwargs):
    return ModelRunner.create(
        ToyModel(), RecordingBackend(), "f16", 256, max_num_seqs=2, chunk_tokens=32, slack=SLACK, **kwargs
    )


def test_create_gives_each_layer_the_blocks_of_its_group():
    runner = make_runner(cache_nbytes=5 * BLOCK_SIZE * 8)
    drafting = 2 * 3  # window - 1 + slack + chunk: 118 positions touch at most 3 blocks
    sliding = drafting + 5  # and those of snapshots
    made = [made for made in runner.backend.made if made[0] > 1]  # one of each kind is made to see what it takes
    assert made == [(8 + 5, 1, 4, "f16"), (sliding, 1, 4, "f16"), (drafting, 1, 4, "f16")]
    assert runner.kv_cache.num_blocks == (8 + 5, sliding, drafting)
    assert runner.kv_cache.specs == SPECS
    assert runner.block_nbytes == (BLOCK_SIZE * 8,) * 3


def test_the_prefix_cache_may_take_what_two_sequences_take():
    runner = make_runner()
    assert runner.cache_nbytes == 2 * (4 + 3 + 3) * BLOCK_SIZE * 8
    assert runner.kv_cache.num_blocks == (8, 2 * 3 + 20, 2 * 3)


def test_the_flat_batch():
    engine = make_engine(chunk_tokens=64)
    scheduler = engine.scheduler
    first, second = (engine.add(make_request(number, prompt_of(10, number), 10)) for number in range(2))
    scheduler.schedule()
    for group in (0, 1):
        assert engine.runner.kv_cache.claim(first.kv, group, 0, 9)
    first.num_computed_tokens = first.kv.num_tokens = 9
    first.draft = Draft((1, 2), (1.0, 1.0))
    engine.runner.forward(scheduler.schedule())
    flat = engine.runner.model.batches[-1]
    assert flat.token_ids.tolist() == [first.token_ids[9], 1, 2, *second.token_ids]
    assert flat.positions.tolist() == [9, 10, 11, *range(10)]
    assert flat.logit_rows.tolist() == [0, 1, 2, 12]
    assert flat.token_ids.dtype == flat.positions.dtype == flat.logit_rows.dtype == np.int32
    assert flat.attention[0].first_keys.tolist() == [0] * 13
    assert flat.attention[0].sequences.tolist() == [0] * 3 + [1] * 10
    assert flat.attention[2] is None


class RoutingBackend(ToyBackend):
    num_asked = 0

    def routed_experts(self):
        self.num_asked += 1
        return (8 * self.num_asked, 11 * self.num_asked)


@pytest.mark.parametrize("moe_layers", [(), (1,), (2,)])
def test_experts_are_those_of_the_last_trunk_pass(moe_layers):
    engine = make_engine()
    model, backend = engine.runner.model, RoutingBackend()
    model.layers = tuple(replace(layer, is_moe=layer.index in moe_layers) for layer in model.layers)
    runner = ModelRunner(model, backend, engine.runner.kv_cache, engine.runner.kv)
    engine.add(make_request(0, prompt_of(10), 10))
    batch = engine.scheduler.schedule()
    kv, one = runner.kv_cache.new(), np.zeros(1, np.int32)
    assert runner.kv_cache.claim(kv, 2, 0, 1)
    assert runner.expert_growth == ()
    for step in (1, 2):
        runner.forward(batch)
        runner.draft_forward(0, [RowSpan(0, 1, kv.tables[2])], one, np.zeros((1, 2), np.float32), one)
        # A head's experts are not the trunk's, and the backend of a dense trunk is not asked.
        has_experts = moe_layers == (1,)
        assert backend.num_asked == (step if has_experts else 0)
        assert runner.expert_growth == ((8 * step, 11 * step) if has_experts else ())


def test_first_keys_of_a_window():
    engine = make_engine(chunk_tokens=128)
    engine.add(make_request(0, prompt_of(100), 10))
    engine.step()
    rows = engine.runner.model.batches[0].attention[1]
    assert rows.first_keys.tolist() == [max(0, position - 69) for position in range(100)]


def test_draft_forward_runs_in_the_heads_group():
    runner = make_runner()
    kv = runner.kv_cache.new()
    assert runner.kv_cache.claim(kv, 2, 30, 33)
    spans = [RowSpan(30, 33, kv.tables[2], first_valid=29)]
    hidden = np.zeros((3, 2), np.float32)
    output = runner.draft_forward(0, spans, np.array([1, 2, 3], np.int32), hidden, np.array([2], np.int32))
    assert output.logits.shape == (1, VOCAB)
    assert runner.kv[2].cells[kv.tables[2][0] * 64 + 30 : kv.tables[2][0] * 64 + 33].tolist() == [1, 2, 3]
    assert (runner.metrics.num_draft_passes, runner.metrics.num_draft_rows) == (1, 3)
    # Whoever made `hidden` has begun the step.
    assert (runner.metrics.num_trunk_passes, runner.backend.num_steps) == (0, 0)


@pytest.mark.parametrize("window", [None, 1, 16, 64, 512])
def test_rows_of_a_lone_sequence_are_those_it_has_beside_another(window):
    rng = np.random.default_rng(window or 0)
    for _ in range(50):
        start = int(rng.integers(0, 300))
        end = start + int(rng.integers(1, 200))
        table = rng.permutation(20)[: -(-end // 64) + int(rng.integers(0, 3))].tolist()
        span = RowSpan(start, end, table, first_valid=int(rng.integers(0, start + 1)))
        alone = attention_rows([span], window)
        beside = attention_rows([span, RowSpan(0, 1, table[:1])], window)
        for name in ("positions", "first_keys", "sequences", "slots"):
            found = getattr(alone, name)
            assert found.dtype == np.int32 and found.flags.c_contiguous
            assert found.tolist() == getattr(beside, name)[:-1].tolist()
        assert alone.block_tables.tolist() == beside.block_tables[:1].tolist()


def test_a_row_without_a_block_is_refused():
    for spans in ([RowSpan(60, 70, [3, -1])], [RowSpan(60, 70, [3, -1]), RowSpan(0, 1, [0])]):
        with pytest.raises(AssertionError, match="no block"):
            attention_rows(spans, None)


def test_a_pass_without_logits_has_no_rows_of_them():
    runner = make_runner()
    assert runner.host_logits(ForwardOutput(None, np.zeros((4, 2), np.float32))).shape == (0, VOCAB)
