"""Memory on the command line: the plan that `inspect` shows, what every command checks before it loads."""

import json

import pytest

RUN = ("-p", "x", "--max-tokens", 2, "--threads", 1)


def test_inspect_shows_what_goes_where(cli, model_path):
    result = cli("inspect", model_path("f32"), "--context-length", 1000, "--parallel", 3, "--kv-type", "q8_0")
    assert result.code == 0
    assert "memory of 3 contexts of 1000 (q8_0)" in result.out
    for name in ("weights", "KV full", "KV sliding", "prefix cache", "activations", "all else, at most", "free"):
        assert name in result.out


def test_inspect_gives_the_plan_to_programs(cli, model_path):
    flags = ("--context-length", 1000, "--parallel", 3, "--memory-gb", 2, "--json")
    memory = json.loads(cli("inspect", model_path("f32"), *flags).out)["memory"]
    assert memory["bytes"] == sum(part["bytes"] for part in memory["parts"])
    assert memory["bytes"] == memory["file_bytes"] + memory["memory_bytes"] + memory["touched_bytes"]
    assert (memory["context_length"], memory["max_num_seqs"], memory["free_bytes"]) == (1000, 3, 2_000_000_000)
    assert memory["refusal"] is None


def test_inspect_chooses_a_context(cli, model_path):
    flags = ("--context-length", "auto", "--memory-gb", 2)
    assert "context_length=auto: 4,096 tokens of the model's 4,096" in cli("inspect", model_path("f32"), *flags).out


def test_inspect_says_that_it_does_not_fit_and_still_shows_the_plan(cli, model_path):
    result = cli("inspect", model_path("f32"), "--memory-gb", 0.01)
    assert result.code == 0
    assert "does not fit" in result.out
    assert "KV full" in result.out


@pytest.mark.parametrize("command", ["run", "chat", "bench"])
def test_commands_refuse_what_cannot_fit_in_one_line(cli, model_path, command):
    result = cli(command, model_path("f32"), *(RUN if command == "run" else ()), "--memory-gb", 0.01)
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert "are free" in result.err
    assert not result.out


def test_auto_is_told_on_stderr(cli, model_path):
    result = cli("run", model_path("f32"), *RUN, "--context-length", "auto", "--memory-gb", 2)
    assert result.code == 0
    assert "context_length=auto: 4,096 tokens" in result.err


def test_what_does_not_matter_is_not_checked(cli, model_path):
    assert cli("run", model_path("f32"), *RUN, "--memory-gb", "inf").code == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--context-length", "many"), "--context-length 'many'"),
        (("--memory-gb", "0"), "memory_gb=0"),
        (("--memory-gb", "-1"), "memory_gb=-1"),
    ],
)
def test_flags_that_mean_nothing(cli, model_path, flags, said):
    result = cli("run", model_path("f32"), *RUN, *flags)
    assert result.code == 2
    assert said in result.err


def test_a_client_is_told_the_context_that_was_chosen(cli, model_path):
    flags = ("--port", 9000, "--context-length", "auto", "--memory-gb", 2)
    result = cli("serve", model_path("f32"), "--print-config", "codex", *flags)
    assert result.code == 0
    assert "4096" in result.out
