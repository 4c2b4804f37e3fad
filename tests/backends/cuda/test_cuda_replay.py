"""How a graph is captured, as far as that can be said without a GPU: what is called, in which order, with arguments
that this version of torch takes. What a replay computes, test_replayed_model.py says."""

import contextlib
import gc
import inspect
import os
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

pytest.importorskip("triton")
import torch

from stepahead.backends.cuda.device import Device
from stepahead.backends.cuda.replay import WARM_UPS, GraphRecorder, LaunchRecorder, new_recorder


class FakeStream:
    def __init__(self, events: list[str], name: str) -> None:
        self.events, self.name = events, name

    def wait_stream(self, other: "FakeStream") -> None:
        self.events.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    events: list[str] = []
    signature = inspect.signature(torch.cuda.graph.__init__)

    @contextlib.contextmanager
    def graph(*args: object, **options: object) -> Iterator[None]:
        signature.bind(None, *args, **options)
        events.append(f"capture from {options['pool']}")
        yield
        events.append("captured")

    @contextlib.contextmanager
    def on_stream(stream: FakeStream) -> Iterator[None]:
        events.append(f"on {stream.name}")
        yield

    pools = iter("AB")
    for name, fake in {
        "Stream": lambda device: FakeStream(events, "side"),
        "current_stream": lambda device: FakeStream(events, "main"),
        "stream": on_stream,
        "graph": graph,
        "graph_pool_handle": lambda: next(pools),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: events.append("replay")),
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return events


def test_a_graph_is_captured_beside_the_stream_that_computes_and_then_replayed(events: list[str]) -> None:
    recorder = GraphRecorder(Device.open())

    def run() -> int:
        events.append("run" if gc.isenabled() else "run without collector")
        return len(events)

    replay, result = recorder.record(run, family=None)
    assert events == [
        "side waits for main", "on side", *["run"] * WARM_UPS, "capture from A", "run without collector", "captured",
        "main waits for side", "replay",
    ]  # fmt: skip
    assert result == events.index("run without collector") + 1, "what the capture gave, not a run before it"
    assert gc.isenabled()
    replay.replay()
    assert events[-1] == "replay"


def test_families_have_memory_of_their_own(events: list[str]) -> None:
    recorder = GraphRecorder(Device.open())
    for family in (None, 0, None):
        recorder.record(lambda: None, family)
    assert [event for event in events if event.startswith("capture ")] == [f"capture from {pool}" for pool in "ABA"]


@pytest.mark.skipif(os.environ["TRITON_INTERPRET"] == "0", reason="there is a GPU")
def test_the_interpreter_keeps_launches() -> None:
    assert isinstance(new_recorder(Device.open(), None), LaunchRecorder)
