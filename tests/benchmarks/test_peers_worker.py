"""Both sides compute what they are timed for, in processes that stand still until they are asked."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import stepahead
from benchmarks.peers import llama
from benchmarks.peers.__main__ import main
from benchmarks.peers.side import some_ids
from benchmarks.peers.worker import Setting, Worker, WorkerError

CONTEXT = 512
needs_llama = pytest.mark.skipif(llama.why_missing() is not None, reason=str(llama.why_missing()))


@pytest.fixture(scope="module")
def f32_model(model_path: Callable[..., Path]) -> Path:
    """Without blocks both engines round alike: their choices are the same."""
    return model_path("f32")


@pytest.fixture(scope="module")
def llm(f32_model: Path) -> Iterator[stepahead.LLM]:
    with stepahead.LLM(f32_model, threads=1, context_length=CONTEXT) as llm:
        yield llm


@pytest.fixture(scope="module", params=["stepahead", pytest.param("llama.cpp", marks=needs_llama)])
def worker(request: pytest.FixtureRequest, f32_model: Path) -> Iterator[Worker]:
    with Worker(Setting(request.param, request.param, str(f32_model), 1, CONTEXT)) as worker:
        yield worker


def greedy(llm: stepahead.LLM, prompt: list[int], count: int) -> list[int]:
    return llm.generate(prompt, stepahead.SamplingParams(max_tokens=count, ignore_eos=True)).token_ids


def test_a_side_decodes_what_generate_gives(worker: Worker, llm: stepahead.LLM) -> None:
    prefix = some_ids(384, 20, seed=1)
    answer, memory = worker.ask("decode", prefix=prefix, num_tokens=12)
    assert answer["token_ids"] == greedy(llm, prefix, 12)
    assert len(answer["repeats"]) == 1 and answer["repeats"][0]["total"] > 0
    assert memory is None or memory.peak >= memory.anonymous > 0


def test_a_side_ends_a_prompt_with_the_same_token(worker: Worker, llm: stepahead.LLM) -> None:
    ids = some_ids(384, 90, seed=2)
    assert worker.ask("prompt", ids=ids)[0]["token_ids"] == greedy(llm, ids, 1)


def test_a_verify_pass_gives_the_choice_after_each_row(worker: Worker, llm: stepahead.LLM) -> None:
    prefix, rows = some_ids(384, 70, seed=3), some_ids(384, 16, seed=4)
    answer, _ = worker.ask("verify", prefix=prefix, rows=rows, seconds=0.0)
    assert answer["token_ids"] == llm.logits([*prefix, *rows])[len(prefix) :].argmax(-1).tolist()
    assert len(answer["repeats"]) >= 3


@pytest.mark.parametrize("depth", [1, 3])
def test_a_cycle_that_keeps_nothing_decodes_plainly(worker: Worker, llm: stepahead.LLM, depth: int) -> None:
    prefix = some_ids(384, 30, seed=5)
    answer, _ = worker.ask("cycle", prefix=prefix, depth=depth, kept=0, seconds=0.0)
    given = [] if worker.setting.engine == "llama.cpp" else prefix[:1]  # ours starts from a token at hand
    assert answer["token_ids"] == greedy(llm, [*prefix, *given], len(answer["token_ids"]))
    assert set(answer["repeats"][0]) == {"draft", "verify", "catch_up"}


def test_a_cycle_keeps_what_it_is_told_to(worker: Worker) -> None:
    answer, _ = worker.ask("cycle", prefix=some_ids(384, 30, seed=6), depth=3, kept=3, seconds=0.0)
    assert len(answer["token_ids"]) >= 4 * 5  # two cycles to warm up and three that count


def test_the_choices_are_those_of_the_logits(worker: Worker, llm: stepahead.LLM) -> None:
    ids = some_ids(384, 64, seed=7)
    choices, digest = worker.ask("choices", ids=ids)[0]
    assert choices == llm.logits(ids).argmax(-1).tolist()
    assert len(digest) == 16


@needs_llama
def test_llama_cpp_drafts_as_our_catchup_chain_does(f32_model: Path, llm: stepahead.LLM) -> None:
    ids = some_ids(384, 40, seed=8)
    model = llama.Model(str(f32_model), repack=True)
    trunk = llama.Context(model, CONTEXT, threads=1)
    driver = llama.HeadDriver(trunk, CONTEXT, threads=1)
    try:
        trunk.run(ids[:-1], 0, "last")
        driver.catch_up(ids[:-1], 0)
        drafted = driver.draft(ids[-1], len(ids) - 1, 3)
    finally:
        driver.close()
        trunk.close()
        model.close()
    assert drafted == llm.draft_logits(ids, chain="catchup").argmax(-1).tolist()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_worker_is_stopped_until_it_is_asked(f32_model: Path) -> None:
    with Worker(Setting("stepahead", "stepahead", str(f32_model), 1, CONTEXT)) as worker:
        pid = worker._process.pid
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        assert Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
        assert worker.ask("first_token")[0] == worker.ask("first_token")[0]
    assert not Path(f"/proc/{pid}").exists()


def test_errors_of_a_side_reach_the_parent(tmp_path: Path, f32_model: Path) -> None:
    with pytest.raises(WorkerError, match=r"stepahead: ConfigError: .*none\.gguf"):
        Worker(Setting("stepahead", "stepahead", str(tmp_path / "none.gguf"), 1, CONTEXT))
    with (
        Worker(Setting("stepahead", "stepahead", str(f32_model), 1, CONTEXT)) as worker,
        pytest.raises(WorkerError, match="RequestError"),
    ):
        worker.ask("prompt", ids=[10**6])


def test_the_command_measures_and_writes(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.peers.__main__.READ_BYTES", 1 << 20)
    json_path, plot_path = tmp_path / "out.json", tmp_path / "out.svg"
    options = ["--alone", "--rounds", "1", "--prefix", "8", "--tokens", "4", "--seconds", "0", "--threads", "1"]
    only = ["--only", "load", "decode", "verify-2", "cycle-3-*", "--prompts", "4096"]
    code = main(["--model", str(tiny_model), *options, *only, "--json", str(json_path), "--plot", str(plot_path)])
    out = capsys.readouterr().out
    assert code == 0
    assert "verify pass, 2 rows" in out and "load to first token" in out
    assert "prompt of 4,096: left out, the context ends at 1,024" in out
    keys = [figure["key"] for figure in json.loads(json_path.read_text())["figures"]]
    assert keys[:3] == ["decode", "verify-2", "cycle-3-kept-3"]
    assert plot_path.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--alone", "--rounds", "0"], "--rounds 0: give at least 1"),
        (["--alone", "--model", "demo", "--experts", "4"], "--experts is for made models"),
        (["--alone", "--model", "nowhere.gguf"], "--model nowhere.gguf: no such file; give one of small"),
        (["--alone", "--json", "no/such/folder/out.json"], "create it first"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_model_larger_than_memory_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.peers.__main__._available_memory", lambda: 10**9)
    monkeypatch.setattr(llama, "why_missing", lambda: None)
    assert main(["--model", "small", "--folder", str(tmp_path)]) == 2
    assert "--repack off needs no second copy" in capsys.readouterr().err
    assert main(["--model", "small", "--folder", str(tmp_path), "--alone"]) == 2
    assert "give a smaller model" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_llama_cpp_missing_is_said_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(llama, "why_missing", lambda: "xllamacpp is not installed: pip install it")
    assert main([]) == 2
    assert "pip install it; or give --alone" in capsys.readouterr().err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "python -m benchmarks.peers --model mid" in capsys.readouterr().out
