"""Where output cannot go: closed streams, readers that leave, full disks. One line at most, and the right exit code."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from stepahead.cli import main as run_main

REF = ("--device", "reference")
NO_ROOM = "stepahead: the output cannot be written: No space left on device\n"
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


def shell(command: str, *arguments: object) -> tuple[int, str, str]:
    """`command` in bash, where "$@" is stepahead with the arguments; (code of the first of a pipe, stdout, stderr)."""
    words = [sys.executable, "-m", "stepahead.cli", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "STEPAHEAD_LOG"}
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}", "bash", *words],
        capture_output=True, text=True, timeout=120, env=environment, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def commands(model_path, tmp_path, cli):
    """Each command that writes, by its name, on a tiny model."""
    model, text, trace = model_path("f32"), tmp_path / "text.txt", tmp_path / "trace.jsonl"
    text.write_text("abc" * 30)
    assert cli("run", model, *REF, "-p", "x", "--max-tokens", 4, "--trace", trace).code == 0
    few = ("-p", "x", "--max-tokens", 4)
    return {
        "run": ("run", model, *REF, *few),
        "run --json": ("run", model, *REF, *few, "--json"),
        "inspect": ("inspect", model),
        "inspect --json": ("inspect", model, "--json"),
        "bench": ("bench", model, *REF, *few, "--rounds", 1, "--depths", 1),
        "bench --json": ("bench", model, *REF, *few, "--rounds", 1, "--depths", 1, "--json"),
        "perplexity": ("perplexity", model, *REF, "--file", text),
        "perplexity --json": ("perplexity", model, *REF, "--file", text, "--json"),
        "trace": ("trace", trace),
        "trace --json": ("trace", trace, "--json"),
        "serve --print-config": ("serve", model, "--print-config", "codex"),
        "help": ("--help",),
        "help of a command": ("run", "--help"),
        "version": ("--version",),
    }


NAMES = ("run", "run --json", "inspect", "inspect --json", "bench", "bench --json", "perplexity", "perplexity --json",
         "trace", "trace --json", "serve --print-config", "help", "help of a command", "version")  # fmt: skip


@needs_full
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_one_line(commands, name: str) -> None:
    assert shell('"$@" >/dev/full', *commands[name]) == (1, "", NO_ROOM)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(("help", "version"))])
def test_a_reader_that_has_left_is_no_error(commands, name: str) -> None:
    assert shell('"$@" | true', *commands[name]) == (141, "", "")


@pytest.mark.parametrize("name", NAMES)
def test_without_standard_output_nothing_is_written_anywhere(commands, name: str) -> None:
    code, out, err = shell('"$@" >&-', *commands[name])
    assert (code, out) == (0, "") and "Error" not in err and "stepahead:" not in err


@needs_full
def test_errors_that_nobody_can_read_keep_their_exit_code() -> None:
    for redirected in ("2>&-", "2>/dev/full", "2>&- >&-", "2>/dev/full >/dev/full"):
        assert shell(f'"$@" {redirected}', "run", "nowhere.gguf", "-p", "x") == (2, "", ""), redirected


def test_a_trace_that_does_not_fit_is_told_after_the_text(commands, tmp_path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    code, out, err = shell('"$@"', *commands["run"], "--trace", "/dev/full")
    assert code == 2 and out
    assert err.splitlines()[-1].startswith("stepahead: /dev/full: the trace ends after 0 steps (No space left on")


# --- the server ---
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def until_ready(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (OSError, urllib.error.URLError):
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("redirected", [">&-", "| true", ">/dev/full", ">&- 2>&-", "2>&1 | true"])
def test_a_server_whose_output_nobody_reads_serves(model_path, redirected: str) -> None:
    pytest.importorskip("fastapi")
    if "/dev/full" in redirected and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    port = free_port()
    command = shlex.join([
        sys.executable, "-m", "stepahead.cli", "serve", str(model_path("f32")), "--port", str(port), "--threads", "1",
    ])  # fmt: skip
    script = f"sh -c 'echo $$ >&3; exec \"$@\"' sh {command} {redirected}; exit ${{PIPESTATUS[0]}}"
    reads, writes = os.pipe()
    shell = subprocess.Popen(
        ["bash", "-c", f"exec 3>&{writes}; {script}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(writes,),
    )
    os.close(writes)
    server = int(os.read(reads, 100))
    os.close(reads)
    try:
        until_ready(port)
        body = json.dumps({"prompt": "x", "max_tokens": 4}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/completions", body, {"Content-Type": "application/json"}
        )
        for _ in range(2):
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.status == 200
    finally:
        os.kill(server, signal.SIGTERM)
        out, err = shell.communicate(timeout=60)
    assert (shell.returncode, out, err) == (0, b"", b"")


def test_closed_streams_in_this_process(monkeypatch, capsys) -> None:
    """As a daemon's: Python has None in their place."""
    monkeypatch.setattr(sys, "stdin", None)
    monkeypatch.setattr(sys, "stdout", None)
    assert run_main(["--version"]) == 0
    sys.stdin.close()
    sys.stdout.close()
    assert capsys.readouterr().err == ""
