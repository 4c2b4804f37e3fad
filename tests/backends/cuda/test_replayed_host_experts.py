"""Replayed passes in which the host takes part: eager bits, no work for padding, errors that end with their pass."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("triton")
import torch
from test_replayed_model import IS_INTERPRETED, Computing, Span, Twins, go_on

from stepahead import BackendError
from stepahead.backends.base import SampleRows
from stepahead.backends.cuda.launch import Launch, Launcher
from stepahead.backends.cuda.rows import Rows
from stepahead.gguf import GGUFFile, QuantType
from stepahead.models.layers import expert_tensors
from stepahead.models.model import Model
from stepahead.models.registry import load_model
from stepahead.models.weights import FILES
from stepahead.repack.source import HostSource
from support.random_step35 import Shape

# Of numpy, in whose place the interpreter divides what is masked.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
ON_HOST = (1, 2)
"""Behind a dense layer: two, which share what the host's memory has for them. Floats are interpreted fast."""
SMALLEST = Shape(
    hidden=64, head_dim=32, num_trunk=3, num_heads_mtp=1, heads_full=2, heads_sliding=2, num_kv_heads=1, width=64,
    num_experts=4, expert_width=32, shared_width=32, vocab=320, window=8, full_period=3, type=QuantType.F16,
)  # fmt: skip
ONE: list[Span] = [(9, 1, (3,))]
OTHER: list[Span] = [(64, 1, (1, 2))]


class Hybrids(Twins):
    """num_rows: of each piece of work that the host has done."""

    def load(self, file: GGUFFile) -> Model:
        names = [name for layer in ON_HOST for name in expert_tensors(layer)]
        model = load_model(file, self.backend, file, HostSource(FILES, file, names, {}))
        self.num_rows: list[int] = []
        self.compute = self.backend.host_experts._cpu.moe_ffn
        self.patch(lambda: None)
        return model

    def patch(self, first: Callable[[], None]) -> None:
        """The worker does that before it computes."""

        def counted(x: object, *args: object) -> object:
            first()
            self.num_rows.append(x.numpy().shape[0])
            return self.compute(x, *args)

        self.backend.host_experts._cpu.moe_ffn = counted

    def replay(self, spans: list[Span], **options: object) -> Rows:
        self.backend.begin_step()
        return self.replayed.forward(self.batch(None, spans, **options), self.other_kv, go_on).hidden

    @property
    def steps(self) -> list[object]:
        """Of the one pass that was recorded."""
        (passes,) = self.replayed._passes.values()
        (one,) = passes.values()
        return one._replay.launches


@pytest.fixture
def twins(model_path) -> Hybrids:
    return Hybrids(model_path(SMALLEST))


def test_a_replay_has_the_bits_of_a_pass_and_the_host_computes_no_padding(twins: Hybrids) -> None:
    for number, spans in enumerate(([(9, 7, (3,))], [(62, 4, (1, 2)), (8, 2, (0,))])):  # padded to eight
        twins.assert_same(*twins.trunk(spans, seed=number))
        count = sum(rows for _, rows, _ in spans)
        assert twins.num_rows == [count] * (2 * len(ON_HOST))  # by the model, and replayed
        twins.num_rows.clear()
        (one,) = (one for passes in twins.replayed._passes.values() for one in passes.values())
        hidden = twins.backend.device.fetched(one.outputs.hidden)
        # The interpreter multiplies the same rows at two places of a tile not quite alike.
        np.testing.assert_allclose(hidden[count:], hidden[count - 1 : count].repeat(8 - count, 0), atol=1e-5)
        assert len(twins.backend.routed_experts()) == count
    assert twins.replayed.num_recorded == 1


@pytest.mark.skipif(not IS_INTERPRETED, reason="it goes through launches one by one")
def test_the_shared_expert_is_launched_while_the_host_computes(twins: Hybrids) -> None:
    twins.replay(ONE)
    expected = twins.backend.download(twins.replay(OTHER, seed=1)).copy()
    twins.replay(ONE)
    (one,) = next(iter(twins.replayed._passes.values())).values()
    one.fill(twins.batch(None, OTHER, seed=1))
    go = threading.Event()
    twins.patch(lambda: go.wait(60) or pytest.fail("nobody waits for the result"))
    names: list[str] = []
    with twins.backend.host_experts.replaying(1):
        for step in twins.steps:
            names.append(step.kernel.fn.__name__ if isinstance(step, Launch) else step.__name__)
            if names[-1] == "finish":
                go.set()
            step()
            if names[-1] == "begin":
                go.clear()
    assert twins.backend.download(Rows(one.outputs.hidden)).tobytes() == expected.tobytes()
    for layer in range(len(ON_HOST)):
        begin, finish = (_places(names, name)[layer] for name in ("begin", "finish"))
        assert names[begin - 1] == "_moe_route"
        assert "_swiglu" in names[begin:finish]
    assert len(_places(names, "begin")) == len(_places(names, "finish")) == len(ON_HOST)


def _places(names: list[str], name: str) -> list[int]:
    return [place for place, each in enumerate(names) if each == name]


@pytest.mark.parametrize("num_before", [0, 1], ids=["recorded", "replayed"])
def test_an_error_of_the_host_ends_its_pass_and_no_other(twins: Hybrids, num_before: int) -> None:
    def stumble() -> None:
        twins.patch(lambda: None)
        raise BackendError("the worker stumbled")

    for seed in range(num_before):
        twins.assert_same(*twins.trunk(ONE, seed=seed))
    twins.patch(stumble)
    with pytest.raises(BackendError, match="the worker stumbled"):
        twins.replay(OTHER, seed=5)
    assert twins.replayed.num_recorded == num_before
    twins.assert_same(*twins.trunk(OTHER, seed=5))


@pytest.mark.skipif(not IS_INTERPRETED, reason="it interrupts a launch")
def test_what_an_interrupt_leaves_with_the_worker_is_done_before_the_next_pass(
    twins: Hybrids, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins.replay(ONE)
    started, go, run = threading.Event(), threading.Event(), Launch.__call__

    def block() -> None:
        started.set()
        assert go.wait(60)

    def interrupt(self: Launch) -> None:
        if started.is_set():
            raise KeyboardInterrupt
        run(self)

    twins.patch(block)
    monkeypatch.setattr(Launch, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        for seed in range(3):  # the worker may begin late
            twins.replay(ONE, seed=seed)
    monkeypatch.undo()
    twins.patch(lambda: None)
    threading.Timer(0.05, go.set).start()
    eager, replayed = twins.trunk(OTHER, seed=1)
    twins.assert_same_rows(eager.hidden, replayed.hidden)
    twins.assert_same_rows(eager.logits, replayed.logits)


def test_the_host_has_nothing_to_do_for_what_is_recorded_ahead(twins: Hybrids) -> None:
    before = [plane.clone() for blocks in twins.other_kv for plane in blocks.planes]
    twins.replayed.record_ahead(None, 2, twins.other_kv)
    assert twins.num_rows == []
    for plane, copy in zip((plane for blocks in twins.other_kv for plane in blocks.planes), before, strict=True):
        assert torch.equal(plane, copy)
    twins.assert_same(*twins.trunk([(63, 2, (2, 4))], sample=SampleRows.greedy(2)))
    assert twins.replayed.num_recorded == 1


@pytest.mark.skipif(not IS_INTERPRETED, reason="a capture fails by itself")
def test_what_the_host_does_is_all_that_is_no_launch(twins: Hybrids, monkeypatch: pytest.MonkeyPatch) -> None:
    computing, original = Computing(), twins.replayed._record

    def ignored(function: Callable[..., None]) -> Callable[..., None]:
        def run(*args: object) -> None:
            computing.is_launching = True
            function(*args)
            computing.is_launching = False

        return run

    def record(*args: object) -> object:
        original(*args)  # what is made once, such as the host's memory for a pass
        with computing:
            return original(*args)

    monkeypatch.setattr(Launch, "__call__", ignored(Launch.__call__))
    monkeypatch.setattr(Launcher, "host_call", ignored(Launcher.host_call))
    monkeypatch.setattr(twins.replayed, "_record", record)
    twins.replay(ONE)
    assert computing.found == []
