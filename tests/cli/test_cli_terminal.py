"""At a terminal: accepted draft tokens are marked, control characters are not obeyed, Ctrl-C ends a run with 130."""

import signal
import subprocess
import sys
import time

from stepahead.cli.console import one_line, visible

GREEN = "\x1b[32m"


def test_accepted_draft_tokens_are_green_in_a_terminal(terminal, model_path):
    flags = ("run", model_path("f32"), "-p", "def f", "--device", "reference", "--max-tokens", 32)
    shown = terminal(*flags, "--depth", 2)
    assert shown.wait() == 0
    assert GREEN in shown.shown
    assert "tokens/step" in shown.shown
    assert "MTP heads" in shown.shown


def test_nothing_is_green_without_drafts_or_under_no_color(terminal, model_path):
    flags = ("run", model_path("f32"), "-p", "def f", "--device", "reference", "--max-tokens", 32)
    plain = terminal(*flags, "--depth", 0)
    assert plain.wait() == 0
    assert GREEN not in plain.shown
    colorless = terminal(*flags, "--depth", 3, NO_COLOR="1")
    assert colorless.wait() == 0
    assert "\x1b[3" not in colorless.shown


def test_a_pipe_stays_a_pipe_under_force_color(process, model_path):
    flags = ("run", model_path("f32"), "-p", "def f", "--device", "reference", "--max-tokens", 16)
    forced = process(*flags, FORCE_COLOR="1", TTY_COMPATIBLE="1")
    assert forced.code == 0
    assert "\x1b" not in forced.out + forced.err
    assert not forced.out.startswith("def f")


def test_a_long_prompt_has_a_bar_and_a_short_one_has_not(terminal, model_path):
    flags = ("run", model_path("f32"), "--device", "reference", "--max-tokens", 2)
    long = terminal(*flags, "-p", "ab" * 900)
    assert long.wait() == 0
    assert "reading the prompt" in long.shown
    assert "512/1800" in long.shown
    short = terminal(*flags, "-p", "ab")
    assert short.wait() == 0
    assert "reading the prompt" not in short.shown


def test_what_a_model_says_cannot_drive_the_terminal():
    assert visible("a\x1b[2J\x07\x7f\x9b\tb\n") == "a␛[2J␇␡�\tb\n"
    assert one_line("a\n  b\x00") == "a b␀"


def test_ctrl_c_ends_a_run_with_130(model_path):
    command = [sys.executable, "-m", "stepahead.cli", "run", model_path("f32"), "-p", "def f", "--ignore-eos"]
    running = subprocess.Popen(
        [*map(str, command), "--device", "reference", "--max-tokens", "4000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert running.stdout is not None
    running.stdout.read(1)
    time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err == b"stepahead: interrupted\n"
