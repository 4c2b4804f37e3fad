"""How a graph is captured, as far as that can be said without a GPU: what is called, in which order, with arguments
that this version of torch takes. What a replay computes, test_replayed_model.py says."""

import contextlib
import gc
import inspect
import itertools
import os
import threading
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("triton")
import torch

from stepahead.backends.cuda.device import Device
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.replay import WARM_UPS, GraphRecorder, LaunchRecorder, new_recorder


class FakeStream:
    def __init__(self, events: list[str], name: str) -> None:
        self.events, self.name = events, name

    def wait_stream(self, other: "FakeStream") -> None:
        self.events.append(f"{self.name} waits for {other.name}")


class FakeGraph:
    SIGNATURE = inspect.signature(torch.cuda.CUDAGraph.capture_begin)

    def __init__(self, events: list[str], number: int) -> None:
        self.events, self.number = events, number

    def capture_begin(self, *args: object, **options: object) -> None:
        self.SIGNATURE.bind(self, *args, **options)
        self.events.append(f"capture from {options['pool']}")

    def capture_end(self) -> None:
        self.events.append("captured")

    def replay(self) -> None:
        self.events.append(f"replay {self.number}")


class FakeKernel:
    """Notes that it was launched."""

    def __init__(self, events: list[str], name: str) -> None:
        self.events, self.name = events, name

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda **options: self.events.append(self.name)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    events: list[str] = []

    @contextlib.contextmanager
    def on_stream(stream: FakeStream) -> Iterator[None]:
        events.append(f"on {stream.name}")
        yield
        events.append(f"off {stream.name}")

    pools, numbers = iter("ABC"), itertools.count()
    for name, fake in {
        "Stream": lambda device: FakeStream(events, "side"),
        "current_stream": lambda device: FakeStream(events, "main"),
        "stream": on_stream,
        "synchronize": lambda device: events.append("synchronize"),
        "empty_cache": lambda: events.append("let go"),
        "graph_pool_handle": lambda: next(pools),
        "CUDAGraph": lambda: FakeGraph(events, next(numbers)),
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return events


def test_a_graph_is_captured_beside_the_stream_that_computes_and_then_replayed(events: list[str]) -> None:
    recorder = GraphRecorder(Device.open(), Launcher())

    def run() -> int:
        events.append("run" if gc.isenabled() else "run without collector")
        return len(events)

    replay, result = recorder.record(run, family=None)
    assert events == [
        "side waits for main", "on side", *["run"] * WARM_UPS, "off side", "synchronize", "let go",
        "on side", "capture from A", "run without collector", "captured", "off side", "main waits for side", "replay 0",
    ]  # fmt: skip
    assert result == events.index("run without collector") + 1, "what the capture gave, not a run before it"
    assert gc.isenabled()
    replay.replay()
    assert events[-2:] == ["replay 0", "replay 0"]


def pools_of(events: list[str]) -> str:
    return "".join(event[-1] for event in events if event.startswith("capture "))


def test_families_have_memory_of_their_own(events: list[str]) -> None:
    recorder = GraphRecorder(Device.open(), Launcher())
    kept = [recorder.record(lambda: None, family) for family in (None, 0, None)]
    assert pools_of(events) == "ABA"
    assert kept


def test_memory_that_all_graphs_have_gone_from_is_not_captured_into(events: list[str]) -> None:
    recorder = GraphRecorder(Device.open(), Launcher())
    first, other = recorder.record(lambda: None, None), recorder.record(lambda: None, None)
    del first
    other = recorder.record(lambda: None, None)
    del other
    recorder.record(lambda: None, None)
    assert pools_of(events) == "AAAB"


def test_after_a_capture_that_failed_the_next_one_has_memory_of_its_own(events: list[str]) -> None:
    recorder, runs = GraphRecorder(Device.open(), Launcher()), itertools.count()

    def run() -> None:
        if next(runs) == WARM_UPS:
            raise MemoryError

    with pytest.raises(MemoryError) as failed:
        recorder.record(run, None)
    recorder.record(lambda: None, None)
    assert failed.value.__traceback__ is not None  # which keeps the graph that failed
    assert pools_of(events) == "AB"


def test_one_stream_is_captured_at_a_time(events: list[str]) -> None:
    runs, others = itertools.count(), []

    def run() -> None:
        if next(runs) == WARM_UPS:
            other = threading.Thread(
                target=lambda: others.append(GraphRecorder(Device.open(), Launcher()).record(int, 0))
            )
            other.start()
            other.join(0.2)
            assert other.is_alive() and "capture from B" not in events
            running.append(other)

    running: list[threading.Thread] = []
    GraphRecorder(Device.open(), Launcher()).record(run, None)
    running[0].join()
    assert others and events.index("captured") < events.index("capture from B")


def halting(launch: Launcher, events: list[str]) -> Callable[[], None]:
    """A pass in which the host has something to do: a, then it, then b, then it twice, then c."""

    def step(name: str) -> None:
        launch(FakeKernel(events, name), (1,))

    def call(name: str) -> None:
        launch.host_call(lambda: events.append(name))

    def run() -> None:
        for action, name in ((step, "a"), (call, "1"), (step, "b"), (call, "2"), (call, "3"), (step, "c")):
            action(name)

    return run


def test_a_graph_ends_where_the_host_has_something_to_do(events: list[str]) -> None:
    launch = Launcher()
    replay, _ = GraphRecorder(Device.open(), launch).record(halting(launch, events), family=None)
    begun = events.index("let go") + 2
    assert events[2 : 2 + 6 * WARM_UPS] == ["a", "1", "b", "2", "3", "c"] * WARM_UPS
    replayed = ["replay 0", "1", "replay 1", "2", "3", "replay 2"]
    assert events[begun:] == [
        *("capture from A", "a", "captured"), *("capture from A", "b", "captured"),
        *("capture from A", "c", "captured"), "off side", "main waits for side", *replayed,
    ]  # fmt: skip
    events.clear()
    replay.replay()
    assert events == replayed


def test_no_graph_is_empty_where_the_host_comes_first(events: list[str]) -> None:
    launch = Launcher()

    def run() -> None:
        launch.host_call(lambda: events.append("1"))
        launch(FakeKernel(events, "a"), (1,))

    GraphRecorder(Device.open(), launch).record(run, family=None)
    assert events[-2:] == ["1", "replay 0"]
    assert sum(event.startswith("capture ") for event in events) == 1


def test_an_error_in_a_capture_ends_it(events: list[str]) -> None:
    launch = Launcher()
    runs = itertools.count()

    def run() -> None:
        launch(FakeKernel(events, "a"), (1,))
        if next(runs) == WARM_UPS:
            raise MemoryError

    with pytest.raises(MemoryError):
        GraphRecorder(Device.open(), launch).record(run, family=None)
    assert events[-2:] == ["a", "captured"]
    assert gc.isenabled()
    launch.host_call(lambda: events.append("now"))
    assert events[-1] == "now"


def test_a_kernel_is_launched_on_its_device_whoever_launches(
    events: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Device, "make_current", lambda self: events.append("current"))
    launch = Launcher(Device.open())
    thread = threading.Thread(target=lambda: launch(FakeKernel(events, "a"), (1,)))
    thread.start()
    thread.join()
    assert events == ["current", "a"]


def test_in_the_interpreter_the_host_has_its_turn_between_the_launches(events: list[str]) -> None:
    launch = Launcher()
    replay, _ = LaunchRecorder(launch).record(halting(launch, events), family=None)
    replay.replay()
    assert events == ["a", "1", "b", "2", "3", "c"] * 2


@pytest.mark.skipif(os.environ["TRITON_INTERPRET"] == "0", reason="there is a GPU")
def test_the_interpreter_keeps_launches() -> None:
    assert isinstance(new_recorder(Device.open(), None), LaunchRecorder)
