"""How CLI tests run commands: in this process, in a process of its own, or at a terminal; and models for them."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from stepahead.cli import main
from stepahead.gguf import write_gguf
from support.random_step35 import Shape, metadata, model_tensors

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}:{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
# stdin becomes the controlling terminal, so that Ctrl-C typed there is a signal here.
AT_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from stepahead.cli import main
sys.exit(main())
"""
PATIENCE = 60.0  # seconds until a process at a terminal is given up


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """cli("run", path, ...): a command in this process, without a terminal."""
    monkeypatch.delenv("STEPAHEAD_LOG", raising=False)

    def run(*args: object) -> Result:
        capsys.readouterr()
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def _environment(changes: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "STEPAHEAD_LOG")}
    return {**kept, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40", **changes}


@pytest.fixture
def process() -> Callable[..., Result]:
    """process("run", path, ..., input=b"", **environment): a command in a process of its own, with pipes."""

    def run(*args: object, input: bytes = b"", **environment: str) -> Result:
        command = [sys.executable, "-m", "stepahead.cli", *map(os.fsencode, map(str, args))]
        done = subprocess.run(
            command, input=input, capture_output=True, timeout=PATIENCE, env=_environment(environment), check=False
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


class Terminal:
    """A command at a pseudo-terminal: what it shows is collected in `shown`."""

    def __init__(self, args: tuple[object, ...], environment: dict[str, str]) -> None:
        self._fd, end = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", AT_TERMINAL, *map(str, args)],
            stdin=end,
            stdout=end,
            stderr=end,
            env=_environment(environment),
            start_new_session=True,
        )
        os.close(end)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def press(self, key: str, until: str, after: int) -> int:
        """Press a key until `until` is shown, as a person would: one may fall between a prompt and its reading."""
        for _ in range(10):
            self.type(key)
            pause = time.monotonic() + 3.0
            while time.monotonic() < pause:
                self._read()
                if (found := self.shown.find(until, after)) >= 0:
                    return found + len(until)
        raise AssertionError(f"{until!r} did not appear in {self.shown!r}")

    def leave(self) -> int:
        """Press Ctrl-D until the process ends; its exit code."""
        for _ in range(10):
            self.type("\x04")
            pause = time.monotonic() + 3.0
            while time.monotonic() < pause:
                if not self._read():
                    return self._process.wait(PATIENCE)
        raise AssertionError(f"Ctrl-D did not end it: {self.shown!r}")

    def wait_for(self, text: str, after: int = 0) -> int:
        """Read until `text` is shown beyond offset `after`; the offset of its end."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.shown.find(text, after)) < 0:
            if time.monotonic() > deadline or not self._read():
                raise AssertionError(f"{text!r} did not appear in {self.shown!r}")
        return found + len(text)

    def wait(self) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._read():
            pass
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._fd)

    def _read(self) -> bool:
        """Take what is there within a second; False at the end."""
        if not select.select([self._fd], [], [], 1.0)[0]:
            return self._process.poll() is None
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # Linux: the other end is closed
            return False
        self.shown += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)


@pytest.fixture
def terminal():
    """terminal("chat", path, ..., **environment): a Terminal."""
    opened: list[Terminal] = []

    def open_terminal(*args: object, **environment: str) -> Terminal:
        opened.append(Terminal(args, environment))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.close()


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a chat template."""
    path = tmp_path_factory.mktemp("chat") / "chat.gguf"
    shape = Shape()
    write_gguf(path, {**metadata(shape), "tokenizer.chat_template": TEMPLATE}, dict(model_tensors(shape)))
    return path
