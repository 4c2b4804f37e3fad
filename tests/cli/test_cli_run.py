"""`run`: what it prints where, what its JSON holds, and what the drafting flags mean."""

import json
import xml.etree.ElementTree

import pytest

from stepahead import LLM, SamplingParams, Speculation
from stepahead.cli.options import speculation

REF = ("--device", "reference")


@pytest.fixture
def run_json(cli, model_path):
    def run(*args: object) -> dict:
        result = cli("run", model_path("f32"), "-p", "def f", *REF, "--json", "--max-tokens", 24, "--seed", 5, *args)
        assert result.code == 0, result.err
        assert result.err == ""
        assert result.out.count("\n") == 1
        return json.loads(result.out)

    return run


def test_json_has_the_published_fields(run_json, model_path):
    found = run_json("--depth", 3)
    assert set(found) == {"text", "token_ids", "prompt_tokens", "finish_reason", "seed", "speculation", "timings"}
    assert set(found["speculation"]) == {
        "num_drafts",
        "num_draft_tokens",
        "num_accepted_tokens",
        "num_accepted_tokens_per_pos",
        "num_draft_tokens_by_source",
        "num_accepted_tokens_by_source",
    }
    with LLM(model_path("f32"), device="reference") as llm:
        expected = llm.generate("def f", SamplingParams(max_tokens=24, seed=5), Speculation("mtp", 3, adaptive=False))
    assert found["text"] == expected.text
    assert found["token_ids"] == expected.token_ids
    assert found["prompt_tokens"] == len(expected.prompt_token_ids)
    assert found["finish_reason"] == expected.finish_reason
    assert found["seed"] == 5
    assert found["speculation"]["num_accepted_tokens_per_pos"] == expected.speculation.num_accepted_tokens_per_pos
    assert found["speculation"]["num_draft_tokens_by_source"] == {"mtp": expected.speculation.num_draft_tokens}
    assert found["speculation"]["num_accepted_tokens_by_source"] == {"mtp": expected.speculation.num_accepted_tokens}
    assert found["timings"]["num_steps"] == expected.timings.num_steps


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_drafting_changes_no_text(run_json, temperature):
    catchup = ("--depth", 3, "--chain", "catchup")
    fixed = [("--speculation", "off"), ("--depth", 0), ("--depth", 1), ("--depth", 3), catchup]
    priced = [("--max-depth", 2), ("--speculation", "mtp"), ("--speculation", "copy"), ()]
    flags = [*fixed, *priced]
    runs = [run_json("--temperature", temperature, *flag) for flag in flags]
    assert len({run["text"] for run in runs}) == 1
    assert runs[0]["speculation"]["num_drafts"] == runs[1]["speculation"]["num_drafts"] == 0
    assert all(run["speculation"]["num_drafts"] > 0 for run in runs[2 : len(fixed)])


def test_a_pipe_gets_the_text_and_stderr_the_numbers(cli, run_json, model_path):
    text = run_json()["text"]
    result = cli("run", model_path("f32"), "-p", "def f", *REF, "--max-tokens", 24, "--seed", 5, "--depth", 1)
    assert result.code == 0
    assert result.out == text + ("" if text.endswith("\n") else "\n")
    assert "\x1b" not in result.out + result.err
    assert result.err.count("\n") == 2
    for fragment in ("tokens/s", "tokens/step", "accepted by position", " · mtp ", "end: length", "seed 5"):
        assert fragment in result.err


def test_a_prompt_from_a_file_or_from_stdin_is_the_prompt(cli, process, run_json, model_path, tmp_path):
    (tmp_path / "prompt.txt").write_text("def f")
    expected = run_json()["token_ids"]
    flags = ("run", model_path("f32"), *REF, "--json", "--max-tokens", 24, "--seed", 5)
    assert json.loads(cli(*flags, "--file", tmp_path / "prompt.txt").out)["token_ids"] == expected
    assert json.loads(process(*flags, "--file", "-", input=b"def f").out)["token_ids"] == expected


def test_stop_flags_reach_the_engine(run_json):
    free = run_json()
    stopped = run_json("--stop-token-id", free["token_ids"][3])
    assert stopped["finish_reason"] == "stop"
    assert len(stopped["token_ids"]) == free["token_ids"].index(free["token_ids"][3]) + 1
    mark = free["text"][2]
    assert run_json("--stop", mark)["text"] == free["text"][: free["text"].index(mark)]


def test_a_companion_file_gives_the_same_run(cli, run_json, model_path):
    flags = ("-p", "def f", *REF, "--json", "--max-tokens", 24, "--seed", 5, "--depth", 3)
    with_companion = cli("run", model_path("f32", "trunk"), "--mtp", model_path("f32", "heads"), *flags)
    found, expected = json.loads(with_companion.out), run_json("--depth", 3)
    assert found["token_ids"] == expected["token_ids"]
    assert found["speculation"] == expected["speculation"]


def test_svg_is_well_formed_and_fetches_nothing(cli, model_path, tmp_path):
    picture = tmp_path / "run.svg"
    result = cli("run", model_path("f32"), "-p", "def f", *REF, "--max-tokens", 24, "--svg", picture)
    assert result.code == 0, result.err
    drawn = picture.read_text()
    xml.etree.ElementTree.fromstring(drawn)
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")
    shown = drawn.replace("&#160;", " ")
    assert "tokens/step" in shown
    assert "$ stepahead run" in shown
    assert "--max-tokens 24" in shown
    assert "--svg" not in shown


SPECULATIONS = [
    ((None, None, None), Speculation("auto")),
    (("mtp", None, None), Speculation("mtp")),
    ((None, 0, None), Speculation("off", 0, adaptive=False)),
    ((None, 2, None), Speculation("mtp", 2, adaptive=False)),
    (("auto", 2, None), Speculation("auto", 2, adaptive=False)),
    ((None, None, 2), Speculation("auto", 2)),
    (("off", 0, None), Speculation("off", 0, adaptive=False)),
]


@pytest.mark.parametrize(("flags", "expected"), SPECULATIONS)
def test_what_the_drafting_flags_mean(flags, expected):
    assert speculation(*flags, "exact") == expected
