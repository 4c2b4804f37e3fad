"""--trace writes what the engine says of its steps; `stepahead trace` shows it."""

import json
from pathlib import Path

import pytest

from stepahead.engine.engine import Engine
from stepahead.trace_file import read_trace
from support.step_traces import plain

REF = ("--backend", "reference")
MARK = 4242  # a request that no engine has


@pytest.fixture
def talkative(monkeypatch):
    """Every step of every engine is heard of, under a number of its own."""
    step = Engine.step

    def talk(engine):
        outputs = step(engine)
        if engine.on_step is not None:
            engine.on_step(plain(request_id=MARK, position=len(outputs)))
        return outputs

    monkeypatch.setattr(Engine, "step", talk)


def marked(path: Path) -> int:
    return sum(step.request_id == MARK for step in read_trace(path).steps)


# --- --trace ---
def test_a_run_writes_its_steps(cli, talkative, model_path, tmp_path):
    path = tmp_path / "a.jsonl"
    flags = ("run", model_path("f32"), "-p", "def f", *REF, "--max-tokens", 12, "--speculation", "off")
    assert cli(*flags).out == cli(*flags, "--trace", path).out
    assert marked(path) == 12
    header = read_trace(path).header
    assert header.isa == "reference"
    assert header.machine
    assert header.threads > 0


def test_a_chat_writes_all_its_answers(process, chat_model, tmp_path):
    path = tmp_path / "a.jsonl"
    result = process("chat", chat_model, *REF, "--max-tokens", 4, "--trace", path, input=b"hello\nagain\n")
    assert result.code == 0, result.err
    assert read_trace(path).header.isa == "reference"


def test_a_bench_writes_all_its_rounds(cli, talkative, model_path, tmp_path):
    path = tmp_path / "a.jsonl"
    result = cli(
        *("bench", model_path("f32"), *REF, "-p", "x", "--max-tokens", 4, "--rounds", 1, "--depths", "1"),
        *("--json", "--trace", path),
    )
    assert result.code == 0, result.err
    assert len(json.loads(result.out)["rows"]) == 2
    assert marked(path) > 8  # four passes of the plain run, twice, and those of the other


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

    with LLM(model_path("f32"), backend="reference") as llm:
        with pytest.raises(KeyError), traced(llm, tmp_path / "a.jsonl"):
            assert llm.on_step is not None
            raise KeyError
        assert llm.on_step is None
        with traced(llm, None):
            assert llm.on_step is None
