"""Cycles that the device runs by itself give what an engine gives that launches every pass and hears of each.

An engine drafts with the heads at a fixed depth for some steps. Then its keys and values are put back, and cycles begin
where it had begun: with the same drafts, verdicts and hidden rows.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

pytest.importorskip("triton")
import torch

from backends.cuda.exact_dots import exact_dots
from backends.cuda.test_replayed_model import SMALLEST, Computing
from stepahead.backends.base import BLOCK_SIZE
from stepahead.backends.cuda.device import Device
from stepahead.backends.cuda.device_cycles import DeviceCycles
from stepahead.backends.cuda.launch import Launch
from stepahead.backends.cuda.ops import CudaBackend
from stepahead.backends.cuda.recorded import MAX_ROWS, WIDTHS
from stepahead.backends.cuda.recorded_cycle import RecordedCycle
from stepahead.backends.cuda.replayed_model import ReplayedModel
from stepahead.engine.engine import Engine
from stepahead.engine.logit_rows import sample_rows
from stepahead.engine.replay import Replay
from stepahead.engine.request import Request
from stepahead.engine.request import Sequence as EngineSequence
from stepahead.engine.runner import ModelRunner
from stepahead.engine.sampler import Sampler
from stepahead.engine.scheduler import Scheduler
from stepahead.gguf import GGUFFile, QuantType
from stepahead.models.cycles import CycleResult, CycleStart, RecordedText
from stepahead.models.draft_vocab import DraftVocab
from stepahead.models.registry import load_model
from stepahead.models.short_output import ShortOutput
from stepahead.speculative.head_passes import HeadPasses
from stepahead.speculative.mtp import MtpProposer
from support.toy_engine import make_request

# Of numpy, in whose place the interpreter divides what is masked.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
IS_INTERPRETED = os.environ["TRITON_INTERPRET"] != "0"
RNG = np.random.default_rng(11)
PROMPTS = [RNG.integers(0, 256, length).tolist() for length in (62, 31)]
TABLE = 3
"""Blocks of each sequence's tables, as far as the cycles get."""


@dataclass
class Step:
    """What an engine's step did: of each sequence its draft, margins, verdict, and the trunk's rows."""

    drafts: list[tuple[int, ...]]
    margins: list[tuple[float, ...]]
    accepted: list[int]
    token_ids: list[tuple[int, ...]]
    hidden: list[np.ndarray]
    outputs: list[list[np.ndarray]]  # of each head, of each sequence the rows that it ran


class Host:
    """An engine whose steps are noted."""

    def __init__(self, path: object) -> None:
        self.backend = CudaBackend()
        file = GGUFFile.open(path)
        self.model = ReplayedModel(load_model(file, self.backend, file), self.backend)
        self.runner = ModelRunner.create(self.model, self.backend, "f32", 256, 2, 64)
        self.proposer = MtpProposer(self.runner, Sampler())
        scheduler = Scheduler(self.runner.kv_cache, 2, 64, drop=self.proposer.forget)
        self.engine = Engine(self.runner, scheduler, self.proposer, Sampler())

    def begin(self, requests: Sequence[Request], depth: int) -> list[EngineSequence]:
        """As if prompts had been run, with any keys, values and hidden rows."""
        rng = np.random.default_rng(4)
        for plane in self.planes:
            plane.copy_(torch.from_numpy(rng.standard_normal(plane.shape, np.float32)))
        sequences = [self.engine.add(request) for request in requests]
        self.engine.scheduler._admit_waiting()
        for sequence in sequences:
            count = sequence.num_prompt_tokens - 1
            for group in range(len(self.runner.kv_cache.specs)):
                assert self.runner.kv_cache.claim(sequence.kv, group, 0, count)
            self.runner.kv_cache.advance(sequence.kv, count, count)
            sequence.num_computed_tokens, sequence.snapshot_positions = count, []
            rows = self.backend.upload(rng.standard_normal((count, self.model.hidden_size), np.float32))
            cache = self.proposer._cache(sequence.kv)
            cache.observe(0, rows, 0, count)
            # The second head lags as far as one can after a draft.
            cache.next_row[:], cache.first_valid[:] = (count, count - depth + 1), (1, 2)
            cache.levels[1].restart(count - 9)
            cache.levels[1].store(count - 9, rows, 0, 9)
        return sequences

    def end(self, sequences: Sequence[EngineSequence]) -> None:
        for sequence in sequences:
            self.engine.abort(sequence.request.request_id)
        while self.engine.has_unfinished:
            self.engine.step()

    def step(self, sequences: Sequence[EngineSequence], monkeypatch: pytest.MonkeyPatch) -> Step:
        before = [len(sequence.token_ids) for sequence in sequences]
        outputs: list[list[np.ndarray]] = []
        kept: list[np.ndarray] = []
        keep, forward = HeadPasses._keep, self.runner.forward

        def keeping(passes: HeadPasses, head: int, rows: list, hidden: object) -> None:
            values, first = self.backend.download(hidden).copy(), 0
            outputs.append([])
            for part in rows:
                assert part.first_output == part.start
                outputs[-1].append(values[first : first + part.end - part.start])
                first += part.end - part.start
            keep(passes, head, rows, hidden)

        def running(batch: object) -> object:
            drafts[:] = [(rows.draft.token_ids, rows.draft.confidence) for rows in batch.rows]
            output = forward(batch)
            values = self.backend.download(output.hidden).copy()
            kept.extend(values[rows.first_row : rows.first_row + rows.num_logits] for rows in batch.rows)
            return output

        drafts: list[tuple] = []
        with monkeypatch.context() as patch:
            patch.setattr(HeadPasses, "_keep", keeping)
            patch.setattr(self.runner, "forward", running)
            self.engine.step()
        new = [tuple(each.token_ids[count:]) for each, count in zip(sequences, before, strict=True)]
        return Step(
            [ids for ids, _ in drafts], [margins for _, margins in drafts], [len(ids) - 1 for ids in new], new, kept,
            outputs,
        )  # fmt: skip

    def start(self, sequence: EngineSequence, depth: int) -> CycleStart:
        cache = self.proposer._cache(sequence.kv)
        position = sequence.num_computed_tokens
        assert cache.num_computed == position
        if depth:
            cache.prepare(position, depth)
        levels = [
            self.backend.gather_rows(level._rows, level._slots(cache.next_row[head] - 1, level.end))
            if level.end >= cache.next_row[head]
            else None
            for head, level in enumerate(cache.levels[:depth])
        ]
        return CycleStart(
            position=position,
            token_ids=np.array(sequence.token_ids, np.int32),
            next_row=tuple(cache.next_row[:depth]),
            first_key=tuple(cache.first_valid[:depth]),
            levels=tuple(levels),
            recorded=recorded(sequence.request.replay, depth, self.model.vocab_size),
        )

    def tables(self, sequences: Sequence[EngineSequence]) -> list[list[list[int]]]:
        """Those of the sequences now, and blocks of nobody for what comes."""
        tables = []
        for group, num_blocks in enumerate(self.runner.kv_cache.num_blocks):
            own = [sequence.kv.tables[group] for sequence in sequences]
            free = [block for block in range(num_blocks) if not any(block in table for table in own)]
            tables.append([table + [free.pop() for _ in range(TABLE - len(table))] for table in own])
        return tables

    @property
    def planes(self) -> list[torch.Tensor]:
        return [plane for blocks in self.runner.kv for plane in blocks.planes]


def recorded(replay: Replay | None, depth: int, vocab_size: int) -> RecordedText | None:
    if replay is None:
        return None
    is_right = np.full((len(replay.token_ids), depth), -1, np.int8)
    for entry, token_id in enumerate(replay.token_ids if replay.rates is not None else ()):
        position = replay.first_position + entry
        is_right[entry] = [replay.draft(position, j, -5, vocab_size) == token_id for j in range(depth)]
    return RecordedText(replay.first_position, np.array(replay.token_ids, np.int32), is_right)


def requests_of(kind: str, depth: int) -> list[Request]:
    recording = tuple(np.random.default_rng(5).integers(0, 300, 40).tolist())
    options = {"max_new_tokens": 60, "depth": depth}
    if kind == "alone":
        return [make_request(0, PROMPTS[0], **options)]
    forced = Replay(recording, len(PROMPTS[0]), (0.8, 0.5), seed=4)
    first = make_request(0, PROMPTS[0], **options)
    filters = {"min_p": 0.01} if depth else {"top_k": 20}  # the interpreter sorts for seconds
    second = make_request(1, PROMPTS[1], temperature=0.8, seed=9, **filters, **options)
    return [replace(first, replay=forced), second]


@dataclass
class Scene:
    """Where cycles begin, and what an engine went on with from there."""

    host: Host
    depth: int
    starts: list[CycleStart]
    tables: list[list[list[int]]]
    sample: object
    steps: list[Step]
    planes: list[torch.Tensor]  # as they were in the beginning

    def cycles(self, **changes: object) -> DeviceCycles:
        for plane, kept in zip(self.host.planes, self.planes, strict=True):
            plane.copy_(kept)
        cycles = self.host.model.cycles(self.host.runner.kv)
        assert cycles is not None
        cycles.begin(self.starts, self.depth, TABLE, replace(self.sample, **changes))
        return cycles


@pytest.fixture(scope="module")
def host(model_path) -> Iterator[Host]:
    with exact_dots():
        yield Host(model_path(replace(SMALLEST, type=QuantType.F32, dense_lead=SMALLEST.num_trunk)))


def played(host: Host, kind: str, depth: int, num_steps: int, monkeypatch: pytest.MonkeyPatch) -> Scene:
    sequences = host.begin(requests_of(kind, depth), depth)
    starts = [host.start(sequence, depth) for sequence in sequences]
    tables = host.tables(sequences)
    sample = sample_rows([(sequence, 0) for sequence in sequences])
    planes = [plane.clone() for plane in host.planes]
    steps = [host.step(sequences, monkeypatch) for _ in range(num_steps)]
    host.end(sequences)
    return Scene(host, depth, starts, tables, sample, steps, planes)


@pytest.fixture(scope="module")
def pair(host: Host) -> Scene:
    with pytest.MonkeyPatch.context() as patch:
        return played(host, "pair", 2, 3, patch)


def assert_same(scene: Scene, step: Step, result: CycleResult, number: int) -> None:
    """Of sequence `number`."""
    depth, download = scene.depth, scene.host.backend.download
    accepted = step.accepted[number]
    assert tuple(result.draft_ids[number]) == step.drafts[number]
    assert result.num_accepted[number] == accepted
    assert tuple(result.token_ids[number, : accepted + 1]) == step.token_ids[number]
    if scene.starts[number].recorded is None:
        assert result.margins[number].tolist() == list(step.margins[number])
    first = number * (depth + 1)
    hidden = download(result.hidden)[first : first + depth + 1]
    assert hidden.tobytes() == step.hidden[number].tobytes()
    for rows, outputs in zip(step.outputs, result.outputs, strict=True):
        expected = rows[number]
        assert download(outputs)[first : first + len(expected)].tobytes() == expected.tobytes()


def test_two_texts_side_by_side(pair: Scene) -> None:
    """One crosses a block with a recording in the place of choices, one is sampled. Each cycle is waited for when the
    next one has been launched."""
    accepted = np.array([step.accepted for step in pair.steps])

    assert accepted[:, 0].tolist() == [2, 0, 1] and (accepted[:, 0] != accepted[:, 1]).any()
    position = pair.starts[0].position
    assert position < BLOCK_SIZE < position + sum(1 + step.accepted[0] for step in pair.steps)
    cycles, results = pair.cycles(), []
    launched = cycles.launch(pair.tables)
    for step in pair.steps:
        ahead = cycles.launch(pair.tables)
        results.append(launched.wait())
        for number in range(2):
            assert_same(pair, step, results[-1], number)
        launched = ahead
    assert pair.host.backend.routed_experts() == ()


def test_what_was_recorded_ahead_is_what_comes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written by it."""
    scene = played(host, "alone", 1, 2, monkeypatch)
    host.model._cycles.clear()
    for static in host.model._tables.values():
        static.fill(np.zeros((2, TABLE), np.int32))  # blocks that could be written to
    before = [plane.clone() for plane in host.planes]
    host.model.cycles(host.runner.kv).record_ahead(1, 1)
    recorded = host.model._cycles[host.runner.kv[0]]
    (cycle,) = recorded.values()
    for plane, copy in zip(host.planes, before, strict=True):
        assert torch.equal(plane, copy)
    assert_same_text(scene)
    assert list(recorded.values()) == [cycle]


def test_cycles_of_one_text_are_recorded_ahead(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all depths, and after the passes."""
    recorded: list[tuple[int | None, ...]] = []
    monkeypatch.setattr(Device, "is_interpreted", property(lambda device: False))
    monkeypatch.setattr(host.model, "record_ahead", lambda head, count, kv: recorded.append((head, count)))
    monkeypatch.setattr(DeviceCycles, "record_ahead", lambda cycles, *sizes: recorded.append(sizes))
    host.model.prepare(host.runner.kv)
    assert recorded[-3:] == [(1, 2), (1, 1), (1, 0)]
    assert [head for head, _ in recorded[:-3]] == [None] * 6 + [0] * 4 + [1] * 4


def test_one_that_stands_still(pair: Scene) -> None:
    """Its grammar, say, has to be asked: from the second cycle on nothing of it is written."""
    assert pair.cycles()._cycle is pair.cycles()._cycle, "recorded once"
    cycles = pair.cycles(is_plain=np.array([True, False]))
    first = cycles.launch(pair.tables).wait()
    blocks = [
        [plane[pair.tables[spec.kv_group][1]] for plane in blocks.planes]
        for spec, blocks in zip(pair.host.model.layers, pair.host.runner.kv, strict=True)
    ]
    second = cycles.launch(pair.tables).wait()
    for step, result in zip(pair.steps, (first, second), strict=False):
        assert_same(pair, step, result, 0)
        assert result.num_accepted[1] == -1
    assert int(cycles._cycle.state.tensors.position[1]) == pair.starts[1].position
    for spec, layer, kept_planes in zip(pair.host.model.layers, pair.host.runner.kv, blocks, strict=True):
        for plane, kept in zip(layer.planes, kept_planes, strict=True):
            assert torch.equal(plane[pair.tables[spec.kv_group][1]], kept)


def test_without_drafts(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same_text(played(host, "pair", 0, 2, monkeypatch))


def test_heads_that_choose_from_a_shortlist(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    file, name = host.model.draft_outputs[0]
    type, rows = file.tensors[name].type, file.data(name).reshape(host.model.vocab_size, -1)
    frequent = np.arange(0, 48, 3, dtype=np.int32)
    matrix = host.backend.load_matrix(rows[frequent].copy(), type, (len(frequent), host.model.hidden_size))
    vocab = DraftVocab(host.backend, frequent, [ShortOutput(matrix, rows, type)], [0, 0], capacity=0)
    monkeypatch.setattr(host.model._model, "draft_vocab", vocab)
    scene = played(host, "alone", 1, 2, monkeypatch)
    assert {token_id for step in scene.steps for token_id in step.drafts[0]} <= {*frequent.tolist()}
    assert_same_text(scene)


def assert_same_text(scene: Scene) -> None:
    cycles = scene.cycles()
    for step in scene.steps:
        result = cycles.launch(scene.tables).wait()
        for number in range(len(scene.starts)):
            assert_same(scene, step, result, number)


def test_what_can_be_run(host: Host) -> None:
    cycles = host.model.cycles(host.runner.kv)
    assert cycles.can_run(1, 0, 1) and cycles.can_run(5, 2, WIDTHS[-1]) and cycles.can_run(MAX_ROWS, 0, 1)
    assert not cycles.can_run(6, 2, 1)  # too many rows
    assert not cycles.can_run(1, 3, 1)  # two heads
    assert not cycles.can_run(1, 2, WIDTHS[-1] + 1)


@pytest.mark.skipif(not IS_INTERPRETED, reason="a capture fails by itself")
def test_nothing_but_launches_and_views_is_recorded(pair: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    computing, launch, run = Computing(), Launch.__call__, RecordedCycle._run

    def launching(self: Launch) -> None:
        computing.is_launching = True
        launch(self)
        computing.is_launching = False

    cycle = pair.cycles()._cycle
    monkeypatch.setattr(Launch, "__call__", launching)
    with computing:
        run(cycle, pair.host.runner.kv)
    assert computing.found == []
