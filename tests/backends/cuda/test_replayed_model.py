"""Replayed passes have the bits of those that the model launches itself, whatever was recorded, and nothing of padding.

Each pass is run twice, on keys and values of its own: by the model, and by the model around it.
"""

import os
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("triton")
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stepahead.backends.base import BLOCK_SIZE, SampleRows
from stepahead.backends.cuda.launch import Launch
from stepahead.backends.cuda.ops import CudaBackend
from stepahead.backends.cuda.replayed_model import MAX_ROWS, ReplayedModel
from stepahead.backends.cuda.rows import Rows
from stepahead.backends.cuda.sampling import SampledRows
from stepahead.engine.batch import RowSpan, attention_rows
from stepahead.gguf import GGUFFile, QuantType
from stepahead.models.draft_vocab import DraftVocab, all_ids
from stepahead.models.model import ForwardBatch, ForwardOutput, Model
from stepahead.models.registry import load_model
from stepahead.models.short_output import ShortOutput
from support.random_step35 import Shape

# Of numpy, in whose place the interpreter divides what is masked.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
IS_INTERPRETED = os.environ["TRITON_INTERPRET"] != "0"
# A dense layer that sees everything, an expert layer that slides, and heads.
SMALLEST = Shape(
    hidden=64, head_dim=32, num_trunk=2, num_heads_mtp=2, heads_full=2, heads_sliding=2, num_kv_heads=1, width=64,
    num_experts=4, expert_width=32, shared_width=32, vocab=320, window=8, full_period=2, type=QuantType.Q8_0,
)  # fmt: skip
NUM_BLOCKS = 20
Span = tuple[int, int, tuple[int, ...]]
"""First position and number of rows of a sequence in a pass, and its blocks."""


class Twins:
    """A model and its replayed twin, each with keys and values of its own."""

    def __init__(self, path: object) -> None:
        self.backend = CudaBackend()
        file = GGUFFile.open(path)
        self.model = self.load(file)
        self.replayed = ReplayedModel(self.model, self.backend)
        self.kv, self.other_kv = (
            tuple(
                self.backend.new_kv(NUM_BLOCKS, spec.num_kv_heads, spec.head_dim, "f32") for spec in self.model.layers
            )
            for _ in range(2)
        )
        rng = np.random.default_rng(1)
        for blocks, others in zip(self.kv, self.other_kv, strict=True):
            for plane, other in zip(blocks.planes, others.planes, strict=True):
                plane.copy_(torch.from_numpy(rng.standard_normal(plane.shape, np.float32)))
                other.copy_(plane)
        self.hidden = self.backend.upload(rng.standard_normal((64, self.model.hidden_size)).astype(np.float32))

    def load(self, file: GGUFFile) -> Model:
        return load_model(file, self.backend, file)

    def trunk(self, spans: list[Span], **options: object) -> tuple[ForwardOutput, ForwardOutput]:
        """By the model, and replayed."""
        batch = self.batch(None, spans, **options)
        self.backend.begin_step()
        eager = self.model.forward(batch, self.kv, go_on)
        self.experts = tuple(self.backend.routed_experts()[:])
        self.backend.begin_step()
        return eager, self.replayed.forward(batch, self.other_kv, go_on)

    def head(self, head: int, spans: list[Span], **options: object) -> tuple[ForwardOutput, ForwardOutput]:
        batch = self.batch(head, spans, **options)
        start = int(batch.token_ids[0]) % 40
        found = []
        for model, kv in ((self.model, self.kv), (self.replayed, self.other_kv)):
            self.backend.begin_step()
            hidden = self.hidden_rows(len(batch.token_ids), start)
            found.append(model.draft_forward(head, batch, hidden, kv, go_on))
        return found[0], found[1]

    def hidden_rows(self, count: int, start: int = 0) -> Rows:
        return self.backend.gather_rows(self.hidden, np.arange(start, start + count, dtype=np.int32))

    def batch(
        self, head: int | None, spans: list[Span], seed: int = 0, logits: list[int] | None = None,
        wanted: list[int] | None = None, sample: SampleRows | None = None,
    ) -> ForwardBatch:  # fmt: skip
        rows = [RowSpan(start, start + count, table) for start, count, table in spans]
        own = None if head is None else self.model.layers[self.model.draft.layers[head]].kv_group
        attention = tuple(
            attention_rows(rows, spec.window) if (not spec.is_draft if own is None else number == own) else None
            for number, spec in enumerate(self.model.kv_specs)
        )
        positions = next(each.positions for each in attention if each is not None)
        token_ids = np.random.default_rng(seed).integers(0, self.model.vocab_size, len(positions), dtype=np.int32)
        numbers = np.arange(len(positions), dtype=np.int32) if logits is None else np.array(logits, np.int32)
        output_rows = None if wanted is None else np.array(wanted, np.int32)
        return ForwardBatch(token_ids, positions, attention, numbers, output_rows, sample)

    def assert_same(self, eager: ForwardOutput, replayed: ForwardOutput) -> None:
        self.assert_same_rows(eager.hidden, replayed.hidden)
        assert (eager.logits is None) == (replayed.logits is None)
        if eager.logits is not None:
            self.assert_same_rows(eager.logits, replayed.logits)
        for blocks, others in zip(self.kv, self.other_kv, strict=True):
            for plane, other in zip(blocks.planes, others.planes, strict=True):
                assert torch.equal(plane, other), "keys and values differ"

    def assert_same_rows(self, x: object, y: object) -> None:
        x, y = self.backend.download(x), self.backend.download(y)
        assert not np.isnan(x).any()
        assert x.shape == y.shape and x.tobytes() == y.tobytes()


def go_on() -> None:
    pass


@pytest.fixture
def twins(model_path) -> Twins:
    return Twins(model_path(SMALLEST))


@pytest.mark.parametrize(
    "passes",
    [
        # Recorded, then with other ids, positions, blocks, and two sequences.
        ([(70, 3, (3, 4))], [(5, 1, (7,)), (130, 2, (9, 10, 11))]),
        # Padded to eight rows.
        ([(9, 7, (3,))], [(62, 4, (1, 2)), (8, 2, (0,))]),
    ],
    ids=["whole", "padded"],
)
def test_the_trunk_is_replayed_for_other_rows_than_recorded(twins: Twins, passes: tuple[list[Span], ...]) -> None:
    for number, spans in enumerate(passes):
        twins.assert_same(*twins.trunk(spans, seed=number))
        experts = tuple(twins.backend.routed_experts()[:])
        assert len(experts) == sum(count for _, count, _ in spans)
        assert experts == twins.experts
    assert twins.replayed.num_recorded == 1


@pytest.mark.parametrize("num_rows", [1, 16, 17])
def test_a_head_of_so_many_rows(twins: Twins, num_rows: int) -> None:
    twins.assert_same(*twins.head(0, [(40, num_rows, (2,))], seed=num_rows, logits=[num_rows - 1]))
    assert twins.replayed.num_recorded == (num_rows <= MAX_ROWS)


def test_a_table_that_grows_past_what_was_recorded(twins: Twins) -> None:
    table = tuple(number % NUM_BLOCKS for number in range(34))
    for seed, (start, num_recorded) in enumerate(((32 * BLOCK_SIZE - 3, 1), (32 * BLOCK_SIZE - 1, 2))):
        end = (start + 1) // BLOCK_SIZE + 1
        twins.assert_same(*twins.head(1, [(start, 2, table[:end])], seed=seed, logits=[]))
        assert twins.replayed.num_recorded == num_recorded


def test_a_head_gives_the_rows_that_are_wanted(twins: Twins) -> None:
    spans = [(40, 3, (2,)), (10, 3, (4,))]
    for number, wanted in enumerate(([2, 5], [3, 4, 5])):
        eager, replayed = twins.head(0, spans, seed=number, logits=[], wanted=wanted)
        assert replayed.hidden.shape[0] == len(wanted)
        twins.assert_same(eager, replayed)


def test_keys_alone_are_not_worth_a_recording(twins: Twins) -> None:
    twins.assert_same(*twins.head(0, [(40, 3, (2,))], logits=[], wanted=[]))
    assert twins.replayed.num_recorded == 0


def test_tokens_are_chosen_in_the_replay(twins: Twins) -> None:
    for number in range(2):
        rows = SampleRows(
            seeds=np.array([2**64 - 3, 5], np.uint64) + np.uint64(number),
            positions=np.array([43, 2**40 + number]),
            temperatures=np.array([0.0, float(number)]),
            top_k=np.array([0, 20 * number], np.int32),
            top_p=np.array([1.0, 0.8]),
            min_p=np.array([0.05, 0.0]),
            is_plain=np.array([number == 0, True]),
        )
        eager, replayed = twins.head(0, [(40, 3, (2,))], seed=number, logits=[0, 2], sample=rows)
        expected = twins.backend.sample(eager.logits, rows, None)
        assert replayed.sampled is not None
        assert replayed.sampled.ids().tolist() == expected.ids().tolist()
        assert replayed.sampled.margins().tobytes() == expected.margins().tobytes()
        assert (replayed.sampled.ids() >= 0).tolist() == [number == 0, True]


def test_nothing_is_loaded_while_a_pass_is_recorded(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    heads, backend, load = twins.model.heads, twins.backend, twins.backend.load_matrix

    def checked(*args: object) -> object:
        assert backend.launch._recording is None
        return load(*args)

    monkeypatch.setattr(backend, "load_matrix", checked)
    twins.replayed.draft_forward(0, twins.batch(0, [(40, 1, (2,))], logits=[]), twins.hidden_rows(1), twins.kv, go_on)
    assert not any(head.shared_head_head.is_loaded for head in heads)
    twins.replayed.draft_forward(0, twins.batch(0, [(40, 1, (2,))]), twins.hidden_rows(1), twins.kv, go_on)
    assert all(head.shared_head_head.is_loaded for head in heads)


def test_a_shortlist_that_changes(twins: Twins) -> None:
    """One recording for all: what enters is found where the pass was recorded to look for it."""
    model, backend, sample = twins.model, twins.backend, SampleRows.greedy(1)
    twins.replayed.draft_vocab = shortlist(twins)
    with all_ids(twins.replayed):
        eager, replayed = twins.head(0, [(40, 3, (2,))], logits=[2], sample=sample)
        twins.assert_same(eager, replayed)
        whole = backend.download(replayed.logits)[0].copy()
        assert replayed.logit_ids is None and len(whole) == model.vocab_size
    ids = model.draft_vocab.ids
    for seen in ([], [310, 7, 311], [312, 7, 313]):  # 4 fit: the last ones push out others
        model.draft_vocab.note(seen)
        eager, replayed = twins.head(0, [(40, 3, (2,))], logits=[2], sample=sample)
        twins.assert_same(eager, replayed)
        assert eager.logit_ids is ids and replayed.logit_ids is ids
        assert set(seen) <= set(ids.tolist())
        filled = ids >= 0
        logits = backend.download(replayed.logits)[0][filled]
        np.testing.assert_allclose(logits, whole[ids[filled]], rtol=1e-5)
        best = ids[filled][logits.argmax()]
        assert replayed.sampled.ids().tolist() == backend.sample(eager.logits, sample, ids).ids().tolist() == [best]
    assert twins.replayed.num_recorded == 2, "one of all ids, one of the shortlist"


def shortlist(twins: Twins) -> DraftVocab:
    model, backend = twins.model, twins.backend
    file, name = model.draft_outputs[0]
    type, rows = file.tensors[name].type, file.data(name).reshape(model.vocab_size, -1)
    frequent = np.arange(0, 48, 3, dtype=np.int32)
    matrix = backend.load_matrix(rows[frequent].copy(), type, (len(frequent), model.hidden_size))
    return DraftVocab(backend, frequent, [ShortOutput(matrix, rows, type)], [0, 0], capacity=4)


def test_tokens_that_the_host_has_not_heard_of(twins: Twins) -> None:
    """Chosen by one pass, an input of the next: recorded with other tokens, and launched one by one."""
    spans = [(40, 3, (2,))]
    batch, backend = twins.batch(1, spans, seed=1, logits=[2]), twins.backend
    twins.replayed.draft_forward(1, twins.batch(1, spans, logits=[2]), twins.hidden_rows(3), twins.kv, go_on)
    chosen = SampledRows(
        torch.tensor([*batch.token_ids[1:].tolist(), -1], dtype=torch.int32, device=backend.device.torch),
        torch.zeros(3, dtype=torch.float64, device=backend.device.torch),
    )
    backend.remember(chosen, 5)
    late = replace(batch, token_ids=np.array([batch.token_ids[0], -6, -7], np.int32))
    eager = twins.model.draft_forward(1, batch, twins.hidden_rows(3), twins.kv, go_on)
    for model in (twins.replayed, twins.model):
        twins.assert_same(eager, model.draft_forward(1, late, twins.hidden_rows(3), twins.other_kv, go_on))
    assert twins.replayed.num_recorded == 2  # one for each keys and values
    undecided = backend.embed(twins.model.token_embd, np.array([-8], np.int32))
    assert np.isfinite(backend.download(undecided)).all()


def test_what_was_recorded_ahead_is_what_comes(twins: Twins) -> None:
    """Nothing is written by it."""
    before = [plane.clone() for blocks in twins.other_kv for plane in blocks.planes]
    twins.replayed.record_ahead(1, 2, twins.other_kv)
    for plane, copy in zip((plane for blocks in twins.other_kv for plane in blocks.planes), before, strict=True):
        assert torch.equal(plane, copy)
    sample = SampleRows.greedy(1)
    twins.assert_same(*twins.head(1, [(63, 2, (2, 4))], logits=[1], sample=sample))
    assert twins.replayed.num_recorded == 1


def test_a_pass_may_be_refused_before_it_begins(twins: Twins) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    batch = twins.batch(None, [(40, 1, (2,))])
    with pytest.raises(KeyboardInterrupt):
        twins.replayed.forward(batch, twins.kv, stop)
    assert twins.replayed.num_recorded == 0


class Computing(TorchDispatchMode):
    """Notes what torch itself computes, outside of launches: no recording has it, and no replay does it again."""

    ALLOWED = frozenset(
        ("empty", "empty_like", "empty_strided", "new_empty", "view", "_unsafe_view", "reshape", "slice", "select",
         "as_strided", "expand", "detach", "alias", "unsqueeze", "squeeze", "unbind", "split", "permute")
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.is_launching = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if not self.is_launching and name not in self.ALLOWED:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(not IS_INTERPRETED, reason="a capture fails by itself")
def test_nothing_but_launches_and_views_is_recorded(twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    computing, run = Computing(), Launch.__call__

    def launch(self: Launch) -> None:
        computing.is_launching = True
        run(self)
        computing.is_launching = False

    original = twins.replayed._record

    def record(*args: object) -> object:
        original(*args)  # what is made once, such as the frequencies of a rotation
        with computing:
            return original(*args)

    monkeypatch.setattr(Launch, "__call__", launch)
    monkeypatch.setattr(twins.replayed, "_record", record)
    rows = SampleRows.greedy(2)
    twins.replayed.forward(twins.batch(None, [(40, 2, (2,))], sample=rows), twins.kv, go_on)
    for vocab in (None, shortlist(twins)):
        twins.replayed.draft_vocab = vocab
        batch = twins.batch(0, [(40, 2, (2,))], sample=rows)
        twins.replayed.draft_forward(0, batch, twins.hidden_rows(2), twins.kv, go_on)
    assert computing.found == []
    with computing:
        torch.zeros(1) + 1
    assert computing.found == ["zeros", "add"]
