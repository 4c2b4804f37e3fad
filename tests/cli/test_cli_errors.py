"""Every mistake is one line on stderr with the value and the way out, and an exit code; never a traceback."""

import os
import subprocess
import sys

import pytest

from stepahead.cli import main as run_main

REF = ("--device", "reference")


def check(result, code: int, *fragments: str) -> None:
    assert result.code == code, result.err
    assert result.out == ""
    assert result.err.startswith("stepahead: ")
    assert result.err.count("\n") == 1
    assert result.err.endswith("\n")
    assert "Traceback" not in result.err
    for fragment in fragments:
        assert fragment in result.err


USAGE = [
    (("run", "--frobnicate"), "--frobnicate"),
    (("frobnicate",), "frobnicate"),
    (("run", "a.gguf", "b.gguf"), "b.gguf"),
    (("run", "--prompt"), "--prompt"),
    (("run", "-p", "x", "--depth", "three"), "three"),
    (("run", "-p", "x", "--temperature", "warm"), "warm"),
    (("run", "-p", "x", "--kv-type", "f64"), "f64"),
    (("run", "-p", "x", "--speculation", "tree"), "tree"),
]


@pytest.mark.parametrize(("args", "value"), USAGE, ids=[" ".join(args) for args, _ in USAGE])
def test_a_wrong_flag_names_itself_and_the_help(cli, args, value):
    check(cli(*args), 2, value, "--help")


SETTINGS = [
    (("--temperature", "-1"), "temperature=-1"),
    (("--temperature", "nan"), "temperature=nan"),
    (("--top-k", "-3"), "top_k=-3"),
    (("--top-p", "0"), "top_p=0"),
    (("--top-p", "1.5"), "top_p=1.5"),
    (("--min-p", "2"), "min_p=2"),
    (("--repetition-penalty", "0"), "repetition_penalty=0"),
    (("--seed", "-1"), "seed=-1"),
    (("--seed", str(2**64)), "seed=18446744073709551616"),
    (("--max-tokens", "0"), "max_tokens=0"),
    (("--stop", ""), "stop=''"),
    (("--stop-token-id", "99999"), "99999"),
    (("--depth", "9"), "depth=9"),
    (("--depth", "-1"), "depth=-1"),
    (("--max-depth", "16"), "depth=16"),
    (("--depth", "1", "--max-depth", "2"), "--max-depth 2"),
    (("--depth", "1", "--speculation", "off"), "--depth 1"),
    (("--threads", "0"), "threads=0"),
    (("--context-length", "1000000"), "context_length=1000000"),
    (("--context-length", "-5"), "context_length=-5"),
    (("--mtp", "nowhere.gguf"), "nowhere.gguf"),
    (("--file", "nowhere.txt"), "nowhere.txt"),
]


@pytest.mark.parametrize(("flags", "value"), SETTINGS, ids=[" ".join(flags) for flags, _ in SETTINGS])
def test_a_setting_out_of_range_is_the_callers_mistake(cli, model_path, flags, value):
    prompt = () if flags[0] == "--file" else ("-p", "x")
    check(cli("run", model_path("f32"), *prompt, *REF, *flags), 2, value)


@pytest.mark.parametrize("command", ["run", "chat", "inspect", "bench"])
def test_a_missing_model_is_named(cli, command):
    check(cli(command, "nowhere.gguf", *(("-p", "x") if command == "run" else ())), 2, "nowhere.gguf")


def test_perplexity_of_a_missing_model_and_of_no_text(cli, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("some text")
    check(cli("perplexity", "nowhere.gguf", "--file", text), 2, "nowhere.gguf")
    check(cli("perplexity", "nowhere.gguf"), 2, "--file")


def test_a_file_that_is_no_model_or_cut_short_exits_1(cli, tmp_path, model_path):
    other = tmp_path / "notes.gguf"
    other.write_text("hello")
    check(cli("run", other, "-p", "x", *REF), 1, "notes.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(model_path("f32").read_bytes()[:20000])
    check(cli("run", cut, "-p", "x", *REF), 1, "cut.gguf")
    check(cli("run", tmp_path, "-p", "x", *REF), 2, str(tmp_path))


def test_a_name_with_a_line_break_stays_one_line(cli, tmp_path):
    check(cli("run", tmp_path / "two\nlines\x1b[31m.gguf", "-p", "x"), 2, "two lines␛[31m.gguf")


def test_heads_that_are_not_there(cli, model_path):
    trunk = model_path("f32", "trunk")
    check(cli("run", trunk, "-p", "x", *REF, "--speculation", "mtp"), 2, "MTP heads")
    check(cli("run", trunk, "-p", "x", *REF, "--depth", "1"), 2, "MTP heads")
    assert cli("run", trunk, "-p", "x", *REF, "--max-tokens", 2).code == 0


def test_prompts_that_are_none(cli, model_path, tmp_path):
    model = model_path("f32")
    check(cli("run", model, *REF), 2, "-p TEXT")
    check(cli("run", model, *REF, "-p", ""), 2, "no tokens")
    check(cli("run", model, *REF, "-p", "x", "--file", "y"), 2, "--file y")
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"caf\xe9")
    check(cli("run", model, *REF, "--file", latin), 2, "0xe9", "offset 3")
    check(cli("run", model, *REF, "--file", "/dev/zero"), 2, "/dev/zero")
    check(cli("run", model, *REF, "-p", "a" * 5000), 2, "4096")


def test_bytes_on_the_command_line_that_are_no_text(process, model_path):
    check(process("run", model_path("f32"), *REF, "-p", b"ab\xff".decode(errors="surrogateescape")), 2, "0xff")


def test_chat_needs_a_template(cli, model_path):
    check(cli("chat", model_path("f32"), *REF), 2, "chat template", "stepahead run")


def test_log_level(process, model_path):
    check(process("run", STEPAHEAD_LOG="loud"), 2, "STEPAHEAD_LOG='loud'", "debug")


def test_errors_of_json_runs_go_to_stderr(cli, model_path):
    check(cli("run", model_path("f32"), "-p", "x", "--json", "--top-p", "7", *REF), 2, "top_p=7")


def test_a_picture_that_cannot_be_written(cli, model_path):
    result = cli("run", model_path("f32"), "-p", "x", "--max-tokens", 2, "--svg", "/nowhere/a.svg", *REF)
    assert result.code == 2
    assert "--svg /nowhere/a.svg" in result.err


def test_a_bug_is_one_line_and_its_traceback_is_for_debugging(monkeypatch, capsys):

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by\nnothing")

    monkeypatch.setattr(sys.modules["stepahead.cli.run"], "read_prompt", fail)
    monkeypatch.setenv("STEPAHEAD_LOG", "error")
    assert run_main(["run"]) == 1
    assert capsys.readouterr().err == (
        "stepahead: unexpected ZeroDivisionError: by nothing; STEPAHEAD_LOG=debug shows where\n"
    )
    monkeypatch.setenv("STEPAHEAD_LOG", "debug")
    assert run_main(["run"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error(model_path):
    command = f"'{sys.executable}' -m stepahead.cli run '{model_path('f32')}' -p x --device reference --max-tokens 400"
    done = subprocess.run(
        ["bash", "-c", f"{command} | head -c 1 >/dev/null; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        timeout=120,
        env=dict(os.environ),
        check=True,
    )
    assert done.stdout.decode().strip() == "141"
    assert done.stderr == b""
