"""Starts a server as a process and stops it: ours, or llama.cpp's inside its Python package.

Owns ports, waiting for readiness and memory. Must not know what is asked.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

READY_SECONDS = 120.0
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class ServerSetting:
    """Which server, and how it is started."""

    name: str
    is_ours: bool
    path: str
    threads: int
    context_length: int  # of each sequence
    parallel: int
    depth: int = 0  # of llama.cpp's MTP; 0: none
    ngram: str = ""
    flags: tuple[str, ...] = ()  # of ours


class RunningServer:
    """A context: the process runs within it."""

    def __init__(self, setting: ServerSetting, stderr: int | None = subprocess.DEVNULL) -> None:
        self.setting = setting
        command = _our_command(setting) if setting.is_ours else _peer_command(setting)
        paths = [str(ROOT), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment)
        assert self._process.stdout is not None
        self.url = ""
        while not self.url:
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError(f"{setting.name} ended with code {self._process.wait()} before it listened")
            found = [word for word in line.split() if word.startswith("http://")]
            self.url = found[0].rstrip("/.,") if found else ""
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == httpx.codes.OK:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise RuntimeError(f"{self.setting.name} is not ready after {READY_SECONDS:g} s")

    @property
    def resident_bytes(self) -> int:
        """Memory of its own, without the model's pages; 0 where the system does not say."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            return 0
        return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)

    @property
    def num_open_files(self) -> int:
        try:
            return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))
        except OSError:
            return 0

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _our_command(setting: ServerSetting) -> list[str]:
    context = ["--context-length", str(setting.context_length), "--parallel", str(setting.parallel)]
    threads = ["--threads", str(setting.threads)]
    return [
        sys.executable, "-m", "stepahead.cli", "serve", setting.path, "--port", "0", *context, *threads, *setting.flags
    ]  # fmt: skip


def _peer_command(setting: ServerSetting) -> list[str]:
    options = {
        "path": setting.path, "threads": setting.threads, "context": setting.context_length * setting.parallel,
        "parallel": setting.parallel, "depth": setting.depth, "ngram": setting.ngram,
    }  # fmt: skip
    return [sys.executable, "-m", "benchmarks.serve.peer", json.dumps(options)]
