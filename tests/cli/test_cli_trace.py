"""--trace writes what the engine says of its steps; `stepahead trace` shows it."""

import json
import xml.etree.ElementTree
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepahead.cli.trace_figures import trace_figures
from stepahead.cli.trace_plot import draw
from stepahead.trace_file import MAX_NUMBER, TraceHeader, TraceWriter, read_trace
from support.step_traces import drafted, plain

REF = ("--device", "reference")


def count(path: Path) -> int:
    return len(read_trace(path).steps)


# --- --trace ---
def test_a_run_writes_its_steps(cli, model_path, tmp_path):
    path = tmp_path / "a.jsonl"
    flags = ("run", model_path("f32"), "-p", "def f", *REF, "--max-tokens", 12, "--speculation", "off")
    assert cli(*flags).out == cli(*flags, "--trace", path).out
    assert count(path) == 12
    header = read_trace(path).header
    assert header.isa == "reference"
    assert header.machine
    assert header.threads > 0


def test_a_chat_writes_all_its_answers(process, chat_model, tmp_path):
    path = tmp_path / "a.jsonl"
    result = process("chat", chat_model, *REF, "--max-tokens", 4, "--trace", path, input=b"hello\nagain\n")
    assert result.code == 0, result.err
    assert read_trace(path).header.isa == "reference"


def test_a_bench_writes_all_its_rounds(cli, model_path, tmp_path):
    path = tmp_path / "a.jsonl"
    result = cli(
        *("bench", model_path("f32"), *REF, "-p", "x", "--max-tokens", 4, "--rounds", 1, "--depths", "1"),
        *("--json", "--trace", path),
    )
    assert result.code == 0, result.err
    assert len(json.loads(result.out)["rows"]) == 2
    assert count(path) > 8  # four passes of the plain run, twice, and those of the other


def test_a_trace_that_cannot_be_written_is_refused_before_anything_is_generated(cli, model_path, tmp_path):
    result = cli("run", model_path("f32"), "-p", "x", *REF, "--trace", tmp_path / "nowhere" / "a.jsonl")
    assert (result.code, result.out) == (2, "")
    assert "nowhere/a.jsonl: no trace can be written there" in result.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_disk_that_fails_costs_no_text(cli, model_path):
    flags = ("run", model_path("f32"), "-p", "def f", *REF, "--max-tokens", 12, "--json")
    expected = json.loads(cli(*flags).out)["text"]
    result = cli(*flags, "--trace", "/dev/full")
    assert result.code == 2
    assert json.loads(result.out)["text"] == expected
    assert "the trace ends after 0 steps" in result.err
    assert result.err.count("\n") == 1


def test_the_engine_is_heard_no_longer_than_the_trace(model_path, tmp_path):
    from stepahead import LLM
    from stepahead.cli.tracing import traced

    with LLM(model_path("f32"), device="reference") as llm:
        with pytest.raises(KeyError), traced(llm, tmp_path / "a.jsonl"):
            assert llm.on_step is not None
            raise KeyError
        assert llm.on_step is None
        with traced(llm, None):
            assert llm.on_step is None


# --- stepahead trace ---
STEPS = [
    drafted(2, (0.9, 0.8, 0.3), depth=2, step=0, actual_ms=3.0, predicted_ms=2.0),
    drafted(0, (0.95,), step=1, actual_ms=2.0, predicted_ms=2.0, num_catch_up_rows=4),
    drafted(1, (0.85, 0.75), step=2, source="copy", actual_ms=1.0, predicted_ms=2.0),
    plain(step=3, throughput=1.0, predicted_ms=0.0),
    # Two sequences share a pass.
    plain(step=4, request_id=2, num_sequences=2, actual_ms=4.0),
    drafted(0, (0.1,), depth=0, step=4, request_id=3, num_sequences=2, actual_ms=4.0, predicted_draft_ms=0.0),
]


@pytest.fixture
def trace_path(tmp_path):
    path = tmp_path / "t.jsonl"
    with TraceWriter(path, TraceHeader("a $\\bad$ \x1b[31mmodel", "a machine", "avx2", 2)) as writer:
        for step in STEPS:
            writer(step)
    return path


def test_figures_are_those_of_the_steps(cli, trace_path):
    result = cli("trace", trace_path, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["isa"] == "avx2"
    assert not found["is_cut"]
    assert (found["num_requests"], found["num_steps"], found["num_passes"]) == (3, 6, 5)
    assert found["num_tokens"] == 6 + 3
    assert found["tokens_per_step"] == 1.5
    # Passes of 3, 2, 1, 2 and 4 ms, 0.5 for drafts in four of them; the shared one counts once.
    assert found["tokens_per_second"] == pytest.approx(1e3 * 9 / 14.0)
    assert [tuple(one.values()) for one in found["sources"]] == [("", 3, 0, 0), ("copy", 1, 2, 1), ("mtp", 2, 3, 2)]
    assert [tuple(one.values()) for one in found["depths"]] == [(0, 3, 0), (1, 1, 0), (2, 2, 3)]
    assert [tuple(one.values()) for one in found["acceptance"]] == [
        (1, 3, pytest.approx(0.9), pytest.approx(2 / 3)),
        (2, 2, pytest.approx(0.775), 0.5),
    ]
    assert [(one["position"], one["num_draft_tokens"], one["accepted"]) for one in found["calibration"]] == [
        (8, 1, 0.0),
        (9, 2, 1.0),
        (10, 2, 0.5),
    ]
    times = found["verify_times"]  # 3/2, 1, 1/2 and 4/2; what was not predicted does not count
    assert (times["num_passes"], times["median_ratio"], times["predicted_ms"]) == (4, 1.25, 8.0)
    assert found["draft_times"]["num_passes"] == 3
    assert (found["throughput_low"], found["throughput_high"]) == (0.5, 1.0)
    assert (found["num_steps_with_catch_up"], found["num_catch_up_rows"]) == (1, 4)
    assert (found["num_shadow_steps"], found["num_shadow_tokens"]) == (2, 2)


def test_one_request_alone(cli, trace_path):
    found = json.loads(cli("trace", trace_path, "--request", 2, "--json").out)
    assert (found["num_requests"], found["num_steps"], found["num_tokens"]) == (1, 1, 1)
    assert found["acceptance"] == []
    missing = cli("trace", trace_path, "--request", 9)
    assert missing.code == 2
    assert "give one of 1, 2, 3" in missing.err


def test_the_tables_are_for_people_and_obey_no_model(cli, trace_path):
    result = cli("trace", trace_path)
    assert result.code == 0, result.err
    assert "\x1b" not in result.out
    for fragment in (
        "a $\\bad$ ␛[31mmodel · a machine · isa avx2, 2 threads",
        "6 steps of 3 requests in 5 passes · 9 tokens · 1.50 tokens/step",
        "none",
        "copy",
        "0.8–0.9",
        "verifying: actual ÷ predicted ms 1.25",
        "priced at: ",
        "shadow:    2 steps drafted 2 tokens more",
        "catch-up:  4 rows of heads in 1 step",
    ):
        assert fragment in result.out, result.out


def test_a_trace_without_prices_has_no_row_of_them(cli, tmp_path):
    path = tmp_path / "t.jsonl"
    with TraceWriter(path, TraceHeader("m", "n", "i", 1)) as writer:
        writer(plain(throughput=0.0, predicted_ms=0.0, actual_ms=0.0))
    result = cli("trace", path)
    assert result.code == 0, result.err
    assert "priced at" not in result.out
    assert "verifying: nothing was predicted" in result.out


def test_a_cut_file_says_so_and_an_empty_or_damaged_one_is_refused(cli, trace_path):
    whole = trace_path.read_bytes()
    trace_path.write_bytes(whole[:-20])
    result = cli("trace", trace_path)
    assert "5 steps" in result.out
    assert "cut off" in result.out
    trace_path.write_bytes(whole.splitlines(keepends=True)[0])
    assert "a trace without steps" in cli("trace", trace_path).err
    trace_path.write_bytes(whole.replace(b'"depth":2', b'"depth":-2', 1))
    refused = cli("trace", trace_path)
    assert (refused.code, refused.out) == (2, "")
    assert "t.jsonl: line 2: depth is '-2'" in refused.err


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_picture(cli, trace_path, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    pictures = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for picture in pictures:
        result = cli("trace", trace_path, "--plot", picture)
        assert result.code == 0, result.err
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    if suffix == "svg":
        drawn = xml.etree.ElementTree.parse(pictures[0])
        texts = {node.text for node in drawn.iter("{http://www.w3.org/2000/svg}text")}
        assert {"draft tokens", "tokens", "ms a pass", "tokens/s", "step of the engine", "predicted"} <= texts


@given(st.lists(st.sampled_from(STEPS), min_size=1, max_size=80), st.data())
@settings(max_examples=15, deadline=None)
def test_any_trace_can_be_summed_up_and_drawn(steps, data):
    matplotlib = pytest.importorskip("matplotlib.figure")
    number = st.floats(-MAX_NUMBER, MAX_NUMBER)
    odd = [
        replace(step, throughput=data.draw(number), predicted_ms=data.draw(number), actual_ms=data.draw(number))
        for step in steps[:3]
    ]
    figures = trace_figures([*steps, *odd])
    assert json.dumps(asdict(figures), allow_nan=False)
    draw(matplotlib.Figure(), "any", [*steps, *odd])


def test_a_picture_is_refused_before_the_file_is_read(cli, tmp_path):
    result = cli("trace", tmp_path / "none.jsonl", "--plot", "a.pdf")
    assert result.code == 2
    assert ".png or .svg" in result.err
    assert "none.jsonl: cannot be read" in cli("trace", tmp_path / "none.jsonl").err
