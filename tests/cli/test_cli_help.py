"""--help: every command has one with examples that parse, and it needs neither numpy nor the native library."""

import re
import shlex
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from stepahead import __version__
from stepahead.cli.app import COMMANDS, app, command

NAMES = [one.__name__ for one in COMMANDS]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example(name):
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", result.output)  # typer colours its help on some CI machines
    assert "Examples:" in shown
    assert f"stepahead {name}" in shown


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_explained(name):
    assert all(param.help for param in command().commands[name].params)


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_parse(name):
    sub = command().commands[name]
    lines = [line.strip() for line in sub.help.splitlines() if line.startswith("  ")]
    assert lines
    for line in lines:
        words = shlex.split(line.rpartition("| ")[2])
        assert words[:2] == ["stepahead", name]
        sub.make_context(name, words[2:])


def test_no_command_is_help_and_version_is_a_line(cli):
    assert "Commands" in cli().out
    result = cli("--version")
    assert result.code == 0
    assert result.out == f"stepahead {__version__}\n"


def test_help_imports_nothing_heavy():
    script = (
        "import sys; from stepahead.cli import main; main(['run', '--help']);"
        "sys.exit(bool({'numpy', 'tokenizers', 'stepahead._native'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL, check=False).returncode == 0
