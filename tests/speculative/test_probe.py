"""The probe: what a seed holds, under any budget, for models with and without heads; and that nobody notices."""

import itertools
import math

import numpy as np
import pytest

from stepahead import LLM, SamplingParams
from stepahead.backends.base import OwnMemory
from stepahead.backends.cpu.ops import CpuBackend
from stepahead.gguf import GGUFFile
from stepahead.models.registry import load_model
from stepahead.speculative import probe
from stepahead.speculative.probe import KV_ROWS, ROWS, Pass, Sample, ascending, measure
from support.choosing_backend import Choosing


def load(path, heads=True):
    file = GGUFFile.open(path)
    return load_model(file, CpuBackend(1), file if heads else None)


def check(seed, num_heads):
    assert seed.rows == ROWS
    assert len(seed.pass_ms) == len(seed.num_experts) == len(ROWS)
    assert seed.pass_ms[0] > 0
    assert all(after >= before for before, after in itertools.pairwise(seed.pass_ms))
    assert all(after >= before for before, after in itertools.pairwise(seed.num_experts))
    assert len(seed.head_ms) == num_heads
    assert min(seed.head_ms, default=1.0) > 0
    others = (seed.head_row_ms, seed.kv_row_ms, seed.ms_per_expert)
    assert all(math.isfinite(value) and value >= 0 for value in others)


@pytest.mark.parametrize("num_heads", [0, 1, 3])
def test_a_seed_has_a_cost_for_every_row_and_head(model_path, num_heads):
    model = load(model_path("f32", num_heads_mtp=num_heads))
    seed = measure(model, model.backend, "f16")
    check(seed, num_heads)
    assert (seed.kv_row_ms > 0) == (num_heads > 0)


@pytest.mark.parametrize("kv_type", ["f32", "q8_0"])
def test_a_budget_of_nothing_still_gives_a_seed(model_path, kv_type):
    model = load(model_path("f32"))
    check(measure(model, model.backend, kv_type, seconds=0.0), 3)


class Machine:
    """Passes that take what they are told to, on a clock of their own; in a cold one, the first of each is slow."""

    def __init__(self, monkeypatch, cost, cold=0.0):
        self.now, self.ran, self._cost, self._cold = 0.0, [], cost, cold
        monkeypatch.setattr(probe.time, "perf_counter", lambda: self.now)

    def run(self, one):
        is_cold = self._cold > 0 and one not in self.ran
        milliseconds = self._cost(one) + is_cold * self._cold
        self.ran.append(one)
        self.now += milliseconds / 1e3
        return Sample(milliseconds, is_cold)


def cost(one):
    return 10.0 + 2.0 * one.num_rows if one.kind == "trunk" else 1.0 + one.num_rows / 10


ORDER = [Pass("trunk", 1), Pass("trunk", 2), Pass("head", 1, 0), Pass("head", 1, 1), Pass("trunk", 4), Pass("trunk", 8)]
LINE = [10.0 + 2.0 * count for count in ROWS]


def test_a_slow_model_is_measured_within_the_budget_and_the_rest_is_drawn_out(monkeypatch):
    machine = Machine(monkeypatch, lambda one: 100 * cost(one))
    times = probe._time(machine.run, ORDER, 4.0, is_patient=False)
    assert machine.now < 4.0 + 1.8  # and one pass
    assert Pass("trunk", 8) not in times
    assert np.allclose(probe._seed(times, {}, 2).pass_ms, np.multiply(100, LINE))


def test_a_slower_one_gets_what_is_indispensable(monkeypatch):
    machine = Machine(monkeypatch, lambda one: 1e4 * cost(one))
    times = probe._time(machine.run, ORDER, 1.0, is_patient=False)
    assert machine.ran == [Pass("trunk", 1), Pass("trunk", 2), Pass("head", 1, 0), Pass("trunk", 4)]
    check(probe._seed(times, {}, 2), 2)


def test_a_quick_model_is_not_measured_for_long(monkeypatch):
    machine = Machine(monkeypatch, lambda one: cost(one) / 50)
    probe._time(machine.run, ORDER, 1.0, is_patient=False)
    assert machine.now < 0.017
    again = Machine(monkeypatch, lambda one: cost(one) / 50)
    probe._time(again.run, ORDER, 1.0, is_patient=True)
    assert again.ran == probe.PATIENT_ROUNDS * ORDER


def test_reading_from_the_disk_is_no_cost_of_a_pass(monkeypatch):
    machine = Machine(monkeypatch, cost, cold=500.0)
    times = probe._time(machine.run, ORDER, 2.0, is_patient=False)
    assert np.allclose(probe._seed(times, {}, 2).pass_ms, LINE)


def test_and_a_slow_disk_does_not_hold_it_up_forever(monkeypatch):
    machine = Machine(monkeypatch, cost, cold=5000.0)
    probe._time(machine.run, ORDER, 1.0, is_patient=False)
    assert machine.now < 4 * 5.1, "only what is indispensable"


def test_the_least_of_several_counts_and_order_is_restored():
    times = {Pass("trunk", 1): [9.0, 5.0], Pass("trunk", 2): [4.0, 7.0], Pass("trunk", 4): [8.0]}
    assert probe._seed(times, {}, 0).pass_ms[:4] == (4.5, 4.5, 6.0, 8.0)


def test_rows_of_a_head_have_a_slope():
    times = {Pass("trunk", 1): [5.0], Pass("trunk", 2): [6.0], Pass("head", 1): [1.0]}
    full = {**times, Pass("head", probe.HEAD_ROWS): [1.7], Pass("kv", KV_ROWS): [3.2]}
    seed = probe._seed(full, {}, 1)
    assert seed.head_row_ms == pytest.approx(0.1)
    assert seed.kv_row_ms == pytest.approx(3.2 / KV_ROWS)


def test_experts_have_a_price_only_where_they_are_seen_to_cost():
    one, many, few = Pass("trunk", 1), Pass("trunk", probe.REPEATED_ROWS), Pass("repeated", probe.REPEATED_ROWS)
    counts = {one: 10, many: 60, few: 20}
    assert probe._expert_cost({one: [3.0], many: [9.0, 10.0], few: [5.0, 6.0]}, counts) == pytest.approx(0.1)
    assert probe._expert_cost({one: [3.0], many: [50.0], few: [5.0]}, counts) == pytest.approx(0.3), "nor more"
    assert probe._expert_cost({one: [3.0], many: [5.1, 10.0], few: [5.0, 6.0]}, counts) == 0.0, "within the noise"
    assert probe._expert_cost({one: [3.0], many: [9.0]}, counts) == 0.0, "not compared"
    assert probe._expert_cost({one: [3.0], many: [9.0], few: [5.0]}, {}) == 0.0, "not counted"


@pytest.mark.parametrize(
    ("values", "restored"),
    [([1, 2, 3], [1, 2, 3]), ([3, 1], [2, 2]), ([1, 5, 3, 4, 9], [1, 4, 4, 4, 9]), ([3, 2, 1], [2, 2, 2]), ([], [])],
)
def test_ascending_is_the_nearest_ascending_line(values, restored):
    assert ascending(values) == restored


def test_a_probe_between_requests_changes_neither_text_nor_counters(model_path):
    params = SamplingParams(max_tokens=12)
    with LLM(model_path("f32"), threads=1) as llm:
        first = llm.generate("def f(", params)
    with LLM(model_path("f32"), threads=1) as llm:
        stream = llm.stream("def f(", params)
        chunks = [next(stream), next(stream)]
        before = (llm.metrics.num_trunk_passes, llm.metrics.num_draft_passes)
        measure(llm.model, llm.backend, "f16")
        assert before == (llm.metrics.num_trunk_passes, llm.metrics.num_draft_passes)
        chunks += stream
        assert [token for chunk in chunks for token in chunk.token_ids_delta] == first.token_ids


def test_experts_are_counted_where_there_are_any(model_path):
    model = load(model_path("f32", num_experts=8, top_k=2))
    num_moe = sum(layer.is_moe for layer in model.layers[: model.num_trunk_layers])
    seed = measure(model, model.backend, "f16")
    assert seed.num_experts[0] == 2 * num_moe
    assert 2 * num_moe < seed.num_experts[-1] <= 8 * num_moe


def test_where_the_backend_chooses_its_tokens_are_what_a_pass_is_for(model_path) -> None:
    """And where kernels are compiled first, for a memory of its own, the first run of each pass is not timed."""

    class Device(Choosing):
        own_memory = OwnMemory("device", None)

    file = GGUFFile.open(model_path("f32"))
    runs: list[int] = []
    for backend in (Choosing(), Device()):
        check(measure(load_model(file, backend, file), backend, "f32", seconds=0.0), 3)
        runs.append(backend.events.count("heard"))
    assert runs[0] > 0
    assert runs[1] == 2 * runs[0]
