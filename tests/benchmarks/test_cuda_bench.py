"""The benchmark of the GPU backend: bounds from shapes, the table of targets, and every part at its smallest."""

import itertools
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined: before any is imported

pytest.importorskip("triton")

from benchmarks.cuda import byte_bounds, decoding, report, targets
from benchmarks.cuda.__main__ import main
from benchmarks.cuda.byte_bounds import cycle_nbytes, distinct_experts, head_nbytes, layer_nbytes, step_nbytes
from benchmarks.cuda.decoding import Cycle
from benchmarks.cuda.made_model import STEP
from benchmarks.cuda.made_weights import made_matrix
from benchmarks.cuda.sliding import SlidingSet
from benchmarks.cuda.steps import RATES, Outcome, Setting, Way, _judge
from stepahead.backends.cuda.formats.fields import values
from stepahead.backends.cuda.formats.format import FORMATS, LEVELS
from stepahead.backends.cuda.formats.pack import unpack
from stepahead.backends.cuda.replay import Segments
from stepahead.gguf import QuantType

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, on what is masked
SLIDING_EXPERTS = 5
MADE = [type for type, form in FORMATS.items() if len(LEVELS[form.levels]) >= 1 << form.code_bits]
"""The others have codes that mean nothing."""
IS_INTERPRETED = os.environ["TRITON_INTERPRET"] == "1"


# --- bounds: figures that were computed by hand when the kernels were planned ---
def test_a_layer_and_a_step_read_what_was_planned() -> None:
    assert layer_nbytes(STEP, SLIDING_EXPERTS, 4096, 8) == pytest.approx(152e6, rel=0.01)
    assert layer_nbytes(STEP, SLIDING_EXPERTS, 4096, distinct_experts(288, 8, 4)) == pytest.approx(358e6, rel=0.01)
    assert step_nbytes(STEP, 4096, 8) == pytest.approx(7.20e9, rel=0.002)
    assert 3.0e12 / step_nbytes(STEP, 4096, 8) == pytest.approx(417, abs=1)
    assert 4.3e12 / step_nbytes(STEP, 4096, 8) == pytest.approx(597, abs=1)


def test_a_head_reads_what_was_planned() -> None:
    assert head_nbytes(STEP, 4096) == pytest.approx(486e6, rel=0.002)
    assert head_nbytes(STEP, 4096, 32768) == pytest.approx(259e6, rel=0.002)


def test_matrices_take_the_bits_of_their_layout() -> None:
    for type, bits in ((QuantType.Q4_K, 4.625), (QuantType.Q6_K, 6.5625), (QuantType.Q8_0, 8.5), (QuantType.F32, 32)):
        assert byte_bounds.matrix_nbytes(type, 3, 32, 512) == 3 * 32 * 512 * bits / 8


@pytest.mark.parametrize(("rows", "count"), [(1, 8.0), (4, 30.7), (16, 104.5)])
def test_rows_that_choose_at_random_choose_so_many_experts(rows: int, count: float) -> None:
    assert distinct_experts(288, 8, rows) == pytest.approx(count, abs=0.05)


@pytest.mark.parametrize(("experts", "columns", "ratio"), [(30.7, None, 1.18), (30.7, 32768, 1.23), (21.1, None, 1.50)])
def test_bytes_bound_what_three_heads_gain(experts: float, columns: int | None, ratio: float) -> None:
    cycle = cycle_nbytes(STEP, 4096, 3, experts, columns)
    gain = byte_bounds.tokens_per_cycle(RATES, 3) * step_nbytes(STEP, 4096, 8) / cycle
    assert gain == pytest.approx(ratio, abs=0.01)


def test_a_prompt_multiplies_with_what_a_token_reads() -> None:
    """11.2 billion weights of a token, without the output matrix."""
    weights = byte_bounds.prompt_flops(STEP, 1) / 2
    assert weights == pytest.approx((step_nbytes(STEP, 0, 8) - 433e6 - 198e6) * 8 / 4.625, rel=0.01)


# --- what is made ---
def test_neighbours_share_a_third_of_their_experts() -> None:
    table = SlidingSet.of(288, 8).table(2000)
    logits = np.random.default_rng(0).standard_normal(table.shape) + table
    chosen = [set(row) for row in np.argsort(-logits, axis=1)[:, :8].tolist()]
    shared = np.mean([len(a & b) / 8 for a, b in itertools.pairwise(chosen)])
    of_four = np.mean([len(set.union(*chosen[at : at + 4])) for at in range(0, 1990, 4)])
    assert shared == pytest.approx(1 / 3, abs=0.01)
    assert of_four == pytest.approx(21.4, abs=0.3)


@pytest.mark.parametrize("type", MADE, ids=lambda type: type.name)
def test_made_weights_are_finite_and_of_the_size_that_was_asked(type: QuantType) -> None:
    import torch

    form = FORMATS[type]
    matrix = made_matrix(type, (32, 512), torch.device("cpu"), std=0.02)
    found = values(unpack(matrix.data.numpy().view(np.uint32), form, (32, 512)), form)
    assert np.isfinite(found).all()
    if type.name in ("Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_0", "Q5_0", "Q4_1", "Q2_K"):
        assert abs(found.mean()) < 0.004
        assert 0.01 < found.std() < 0.04


# --- the table ---
def test_the_worst_of_a_targets_values_counts() -> None:
    records = [
        {"part": "start", "case": "device", "device": "NVIDIA H200"},
        {"part": "M2", "case": "a", "target": "gemv Q4_K", "value": 0.8},
        {"part": "M2", "case": "b", "target": "gemv Q4_K", "value": 0.7},
        {"part": "M2", "case": "c", "target": "gemv 4 to 1", "value": 1.0},
        {"part": "M2", "case": "d", "target": "gemv 4 to 1", "value": 1.05},
        {"part": "M4", "case": "e", "target": "plain", "value": 0.57},
        {"part": "M6", "case": "failed", "error": "no such thing"},
    ]
    lines = {line.split(" | ")[0].strip("| "): line for line in targets.table(records).splitlines()}
    of = {target.key: lines[target.measure] for target in targets.TARGETS}
    assert of["gemv Q4_K"].endswith("| ≥ 0.75 | 0.7 | **no** |")
    assert of["gemv 4 to 1"].endswith("| ≤ 1.1 | 1.05 | yes |")
    assert of["plain"].endswith("| ≥ 0.55 | 0.57 | yes |")  # on an H100 it would not do
    assert of["prompt"].endswith("| not measured | – |")
    assert "M6 failed: no such thing" in targets.heading(records)


def test_a_run_that_was_cut_off_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"part": "M0", "case": "a"}\n{"part": "M0", "ca')
    assert report.read(path) == [{"part": "M0", "case": "a"}]


def test_a_table_of_several_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, (key, value) in zip(paths, (("experts", 0.7), ("prompt", 0.3)), strict=True):
        path.write_text(json.dumps({"part": "M3", "case": "a", "target": key, "value": value}) + "\n")
    assert main(["--table", *map(str, paths)]) == 0
    told = capsys.readouterr().out
    assert "| 0.7 | yes |" in told and "| 0.3 | yes |" in told


def test_targets_are_judged_by_the_best_depth() -> None:
    told: list[dict] = []

    class Bench:
        def report(self, part: str, case: str, **facts: object) -> None:
            told.append({"case": case, **facts})

    def outcome(rate: float, bound: float) -> Outcome:
        cycle = Cycle(1 / rate, 8.0, 4096, warming_up=0.0, device_seconds=0.96 / rate)
        return Outcome(rate, bound, 2 * rate, rate / bound, cycle)

    outcomes = {}
    for is_shared in (False, True):
        outcomes[Setting(Way.CYCLES, is_shared)] = outcome(250.0, 400.0)
        outcomes[Setting(Way.CYCLES, is_shared, 2)] = outcome(350.0, 500.0)
        outcomes[Setting(Way.CYCLES, is_shared, 3)] = outcome(340.0, 600.0)
        outcomes[Setting(Way.HOST, is_shared, 3)] = outcome(360.0, 500.0)
    outcomes[Setting(Way.EAGER)] = outcome(50.0, 400.0)
    _judge(Bench(), outcomes)
    found = {line["target"]: line["value"] for line in told}
    assert found["plain"] == pytest.approx(0.625)
    assert found["cycle"] == pytest.approx(0.7)
    assert (found["ratio random"], found["ratio bound shared"]) == (pytest.approx(1.4), pytest.approx(1.25))
    assert found["speed shared"] == pytest.approx(700.0)
    assert found["host"] == pytest.approx(0.04)


# --- what the device does of a step ---
class Event:
    """Of a device that the test moves on: a graph takes 5 ms, and there is 1 ms between two."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = Event.now

    def elapsed_time(self, end: "Event") -> float:
        return end.at - self.at


def run_graph() -> None:
    Event.now += 5.0


class Stepping:
    """An engine whose cycles are recorded, and grow by three positions."""

    cycles = object()

    def __init__(self, passes_a_step: int) -> None:
        self.kv = SimpleNamespace(num_claimed=34)
        self.request = SimpleNamespace(depth=3)
        self._passes = [Segments(None, None) for _ in range(passes_a_step)]
        for segments in self._passes:
            segments._steps.append(run_graph)

    def step(self) -> None:
        self.kv.num_claimed += 3
        for segments in self._passes:
            Event.now += 1.0
            segments.replay()


@pytest.mark.parametrize("passes_a_step", [1, 4])
def test_times_of_the_device_are_told_apart(monkeypatch: pytest.MonkeyPatch, passes_a_step: int) -> None:
    import torch

    replayed: list[list[Segments]] = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(decoding, "replay_seconds", lambda graphs: replayed.append(graphs) or 0.0045)
    engine = Stepping(passes_a_step)
    device, between = decoding._on_device(engine, engine)
    assert device == 0.0045
    assert between == pytest.approx(passes_a_step * 1e-3)
    assert replayed == [engine._passes], "of the last step alone"
    # Behind the steps that are noted, at 58, it is the first one whose next two cycles find their blocks.
    assert 34 + 3 * decoding.NOTED_STEPS == 58
    assert engine.kv.num_claimed == 67


# --- the script ---
@pytest.mark.skipif(not IS_INTERPRETED, reason="toy shapes are for the interpreter")
def test_every_part_runs_at_its_smallest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "toy.json"
    parts = ["M0", "M2", "M3", "M4", "M5", "M6", "host"]
    status = main(["--toy", *parts, "--out", str(out)])
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record.get("error") for record in records if "error" in record] == []
    assert status == 0
    assert [record["part"] for record in records if record["case"] == "done"] == parts
    assert all("value" not in record for record in records), "a toy run measures nothing"
    assert [record["ran_ahead"] for record in records if "ran_ahead" in record] == [1.0]
    assert "not measured" in capsys.readouterr().out
    assert main(["--table", str(out)]) == 0


def test_a_part_that_fails_says_so_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.cuda import attention, choice

    def fail(bench: object) -> None:
        raise ValueError("no room\nat all")

    monkeypatch.setattr(choice, "measure", fail)
    monkeypatch.setattr(attention, "measure", lambda bench: bench.report("M6", "reached"))
    out = tmp_path / "run.json"
    assert main(["--toy", "M5", "M6", "--out", str(out)]) == 1
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert next(record["error"] for record in records if "error" in record) == "ValueError: no room"
    assert any(record["case"] == "reached" for record in records)
