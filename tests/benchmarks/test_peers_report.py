"""Rounds, ratios, table, JSON and picture of a comparison, from samples that are made up."""

import json
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.peers.floor import Weights
from benchmarks.peers.measure import Agreement, Figure, Results, SideMemory, measure_rounds, order, sample
from benchmarks.peers.plan import Measure, Plan, make_tasks
from benchmarks.peers.plot import draw
from benchmarks.peers.report import as_object, as_text, number
from benchmarks.peers.worker import Memory, Setting, read_memory
from stepahead.machine import cpu_of_others

WEIGHTS = Weights(
    dense=1000, output=200, experts=800, num_experts=8, top_k=2, per_head=(30, 40, 50), trunk_kv=(), head_kv=()
)  # fmt: skip
PLAN = Plan(vocab_size=100, num_heads=3, prefix=8, num_tokens=5, prompts=(16,), seconds=0.0)
FACTS: dict[str, Any] = {
    "version": "0", "commit": "abc", "date": "today", "machine": "a <machine>", "model": "tiny", "model_bytes": 10**6,
    "threads": 2, "rounds": 3, "prefix": 8, "load_average": 0.1, "peer": "them",
}  # fmt: skip


class FakeWorker:
    """Answers at once, each answer slower than the one before."""

    def __init__(self, name: str, seconds: float, log: list[tuple[str, str, dict[str, Any]]]) -> None:
        self.setting = Setting(name, name, "", 1, 1)
        self._seconds = seconds
        self.others = 0.01
        self._log = log

    def ask(self, method: str, **arguments: Any) -> tuple[Any, Memory | None]:
        if method == "facts":
            return {"engine": self.setting.name}, None
        if method == "choices":
            return (list(range(len(arguments["ids"]))), "hash"), None
        self._log.append((self.setting.name, method, arguments))
        parts = ("draft", "verify", "catch_up") if method == "cycle" else ("total",)
        return {"repeats": [dict.fromkeys(parts, self._seconds)]}, Memory(3, 2, 1)


class FakeBandwidth:
    def measure(self) -> float:
        return 1e6


def results(only: str = "*", rounds: int = 3) -> tuple[Results, list[tuple[str, str, dict[str, Any]]]]:
    log: list[tuple[str, str, dict[str, Any]]] = []
    workers = [FakeWorker(name, s, log) for name, s in (("stepahead", 0.01), ("fast", 0.02), ("slow", 0.04))]
    tasks = make_tasks(PLAN, WEIGHTS, [only])
    return measure_rounds(workers, PLAN, tasks, rounds, FakeBandwidth(), lambda _: None), log  # type: ignore[arg-type]


def test_each_round_begins_with_another_side() -> None:
    assert [order(3, number) for number in range(3)] == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    _, log = results("decode", rounds=2)
    names = [name for name, _, _ in log]
    assert names == ["stepahead", "fast", "slow", "fast", "slow", "stepahead", "slow", "stepahead", "fast"]


def test_one_round_warms_up_and_prompts_are_new_every_time() -> None:
    found, log = results("prompt-16", rounds=2)
    assert [len(seconds) for seconds in found.figures[0].samples.values()] == [2, 2, 2]
    prompts = [tuple(arguments["ids"]) for name, _, arguments in log if name == "stepahead"]
    assert len(set(prompts)) == 3
    assert {len(prompt) for prompt in prompts} == {16}


def test_all_figures_are_planned() -> None:
    keys = [measure.key for task in make_tasks(PLAN, WEIGHTS) for measure in task.measures if not measure.parts]
    cycles = [f"cycle-{depth}-kept-{kept}" for depth in (1, 2, 3) for kept in (depth, 0)]
    assert keys == ["decode", "prompt-16", *(f"verify-{rows}" for rows in (1, 2, 3, 4, 5, 8, 16)), *cycles]
    assert [task.measures[0].key for task in make_tasks(PLAN, WEIGHTS, ["cycle-1-*", "verify-5"])] == [
        "verify-5", "cycle-1-kept-1", "cycle-1-kept-0",
    ]  # fmt: skip


def test_the_floor_of_a_cycle_is_its_verify_pass_and_its_heads() -> None:
    task = make_tasks(PLAN, WEIGHTS, ["cycle-2-kept-2"])[0]
    whole, draft, verify, catch_up = (measure.floor_bytes for measure in task.measures)
    assert draft == 30 + 40
    assert verify == WEIGHTS.rows(3, PLAN.prefix)
    assert whole == draft + verify
    assert catch_up is None


def test_a_sample_is_its_median_repeat_and_its_parts_add_up() -> None:
    measures = make_tasks(PLAN, WEIGHTS, ["cycle-1-kept-0"])[0].measures
    repeats = [{"draft": d, "verify": v, "catch_up": 0.5} for d, v in ((1.0, 9.0), (3.0, 2.0), (1.0, 1.0))]
    whole, *parts = (sample(repeats, measure) for measure in measures)
    assert parts == [3.0, 2.0, 0.5]
    assert whole == sum(parts)


def test_ratios_are_taken_within_a_round() -> None:
    measure = Measure("decode", "decode", "tokens/s", 10, "decode", {}, 100.0)
    figure = Figure(measure, {"us": [1.0, 2.0, 4.0], "them": [2.0, 2.0, 2.0]}, [100.0, 100.0, 50.0], "them")
    ratio, spread = figure.times_as_fast, figure.spread("us")
    assert ratio is not None
    assert (ratio.median, ratio.low, ratio.high) == (1.0, 0.5, 2.0)
    assert (spread.median, spread.low, spread.high) == (5.0, 2.5, 10.0)
    assert figure.floor == 10.0
    assert figure.times_floor("us") == 2.0  # 1, 2 and 2 times


def test_parts_are_those_of_the_faster_setting_and_have_no_ratio() -> None:
    found, _ = results("cycle-1-kept-1")
    assert [figure.peer for figure in found.figures] == ["fast"] * 4
    assert [figure.times_as_fast is None for figure in found.figures] == [False, True, True, True]


def test_the_table_names_setting_floor_and_spread() -> None:
    found, _ = results()
    text = as_text(FACTS, found)
    row = next(line for line in text.splitlines() if line.startswith("verify pass, 1 row"))
    assert row.split()[4:] == ["ms", "10.0", "10.0–10.0", "7.14", "20.0", "20.0–20.0", "14.29", "fast", "1.40",
                               "2.00x", "2.00–2.00"]  # fmt: skip
    assert "same greedy choice as fast: 100 %" in text
    assert "logits hash hash" in text
    assert "DOUBTFUL" not in text and "QUIET" not in text
    assert "NOT A QUIET MACHINE" in as_text({**FACTS, "load_average": 1.5}, found)
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_wrong_fast_answer_is_called_doubtful() -> None:
    found, _ = results("decode")
    found.agreement = Agreement("hash", 64, {"fast": 0.99, "slow": 0.1})
    lines = as_text(FACTS, found).splitlines()
    assert [("DOUBTFUL" in line) for line in lines if "same greedy choice" in line] == [False, True]


def test_json_has_every_sample() -> None:
    found, _ = results()
    back = json.loads(json.dumps(as_object(FACTS, found)))
    figure = next(figure for figure in back["figures"] if figure["key"] == "verify-4")
    assert figure["sides"]["slow"]["seconds_by_round"] == [0.04] * 3
    assert figure["peer"] == "fast"
    assert figure["times_as_fast"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert back["memory"]["stepahead"] == {
        kind: {"peak": 3, "anonymous": 2, "file": 1} for kind in ("plain", "with heads")
    }
    assert back["agreement"]["logits_hash"] == "hash"


def test_without_a_peer_there_is_neither_ratio_nor_bar() -> None:
    figure = Figure(Measure("load", "load", "ms", 1, "", {}, None), {"stepahead": [0.5]}, [1e6], None)
    alone = Results([figure], {"stepahead": {"plain": SideMemory()}})
    text = as_text(FACTS, alone)
    assert "faster by" not in text
    assert "this system does not say" in text
    assert "<rect" in draw(FACTS, [figure])


@pytest.mark.parametrize("only", ["*", "decode", "nothing"])
def test_the_picture_is_sound_xml_within_its_frame(only: str) -> None:
    found, _ = results(only)
    root = ElementTree.fromstring(draw(FACTS, found.figures))
    _, _, width, height = (float(part) for part in root.attrib["viewBox"].split())
    bars = [node.attrib for node in root if node.tag.endswith("rect")][1:]
    assert len(bars) == sum(figure.times_as_fast is not None for figure in found.figures)
    for bar in bars:
        assert float(bar["x"]) + float(bar["width"]) < width and float(bar["y"]) < height
    assert "a <machine>" in "".join(root.itertext())


@pytest.mark.parametrize(("value", "shown"), [(1234.4, "1,234"), (99.96, "100.0"), (12.34, "12.3"), (0.567, "0.57")])
def test_numbers_have_three_digits_or_so(value: float, shown: str) -> None:
    assert number(value) == shown


def test_the_cpu_of_others_is_all_that_is_not_ours() -> None:
    total = "cpu  100 20 30 9999 50 1 2 7 0 0"
    mine = "12 (a) name) R 1 1 1 0 -1 0 0 0 0 0 40 10 5 5 20 0"
    assert cpu_of_others(total, mine, ticks=100) == (100 + 20 + 30 + 1 + 2 + 7 - 40 - 10) / 100


def test_work_of_others_is_named() -> None:
    found, _ = results("decode")
    found.others["fast"] = 0.7
    line = next(line for line in as_text(FACTS, found).splitlines() if line.startswith("CPUs"))
    assert "0.70 (fast)" in line and line.endswith("NOT A QUIET MACHINE")


def test_memory_is_read_from_what_the_system_says() -> None:
    status = "Name:\tpython\nVmHWM:\t    40 kB\nRssAnon:\t  8 kB\nRssFile:\t 16 kB\nThreads:\t2\n"
    assert read_memory(status) == Memory(40960, 8192, 16384)
