"""A side in a process of its own: memory is counted apart, and a pool of threads that waits by spinning is stopped.

The parent asks one worker at a time, in lines of JSON, and stops all others (SIGSTOP). Owns the two ends of that pipe
and what the system says about a process' memory. Must not know: what is asked, or why.
"""

import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from benchmarks.peers.side import Side
from stepahead.machine import cpu_seconds_of_others

if TYPE_CHECKING:
    from benchmarks.peers.server import ServerSide

ROOT = Path(__file__).parents[2]
QUIT_SECONDS = 10
QUIT_SECONDS_AFTER_ERROR = 0.5
_PR_SET_PDEATHSIG = 1
_RESET_PEAK = "5"  # Linux, proc(5): clear_refs


class WorkerError(Exception):
    """A side failed; the message is its own."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one process. `file` is page cache that other processes share, `anonymous` is its own."""

    peak: int  # resident, since the last question
    anonymous: int  # now
    file: int  # now


@dataclass(frozen=True, slots=True)
class Setting:
    """Which engine a worker loads, and how."""

    name: str  # as the report shows it
    engine: str  # "stepahead", "llama.cpp" or "llama.cpp server"
    path: str
    threads: int
    context_length: int
    repack: bool = False
    # Of llama.cpp's server alone, which fixes them when it starts.
    depth: int = 0
    rates: tuple[float, ...] | None = None  # None: the heads' own acceptance
    ngram: str = ""  # how it drafts from the text instead of from heads: "simple", "map-k", "mod" ...


class Worker:
    """The parent's end. Stopped but while it answers."""

    def __init__(self, setting: Setting) -> None:
        """Start and load; raises WorkerError if that fails."""
        self.setting = setting
        self._asked_seconds = self._others_seconds = 0.0
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers.worker", json.dumps(dataclasses.asdict(setting))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is the parent's to handle
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        try:
            self.load_seconds: dict[str, float] = self._answer()["seconds"]
        except BaseException:
            self.close(QUIT_SECONDS_AFTER_ERROR)
            raise

    def ask(self, method: str, **arguments: Any) -> tuple[Any, Memory | None]:
        """Call a method of the side: its result, as JSON has it, and the memory it took."""
        assert self._process.stdin is not None
        before, started = cpu_seconds_of_others(self._process.pid) or 0.0, time.perf_counter()
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps({"method": method, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it is gone: reading says so
        answer = self._answer()
        self._asked_seconds += time.perf_counter() - started
        self._others_seconds += max(0.0, (cpu_seconds_of_others(self._process.pid) or 0.0) - before)
        memory = answer["memory"]
        return answer["result"], None if memory is None else Memory(**memory)

    @property
    def others(self) -> float:
        """CPUs that other processes used while this one was asked; 0 where the system does not say."""
        return self._others_seconds / self._asked_seconds if self._asked_seconds else 0.0

    def close(self, seconds: float = QUIT_SECONDS) -> None:
        """Let it end; kill it if it has not after some seconds."""
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        process.send_signal(signal.SIGCONT)
        try:
            process.stdin.close()
            process.wait(seconds)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            process.kill()
            process.wait()
        process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(QUIT_SECONDS if error is None else QUIT_SECONDS_AFTER_ERROR)

    def _answer(self) -> dict[str, Any]:
        """The next line; the worker is stopped after it."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"{self.setting.name} ended with code {self._process.wait()}: see what it wrote above")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.setting.name}: {answer['error']}")
        self._process.send_signal(signal.SIGSTOP)
        return answer


def read_memory(status: str) -> Memory:
    """From the text of /proc/self/status."""
    kib = {line.split(":")[0]: int(line.split()[1]) for line in status.splitlines() if line.endswith(" kB")}
    return Memory(*(1024 * kib[key] for key in ("VmHWM", "RssAnon", "RssFile")))


def _memory() -> Memory | None:
    """None where the system does not say."""
    try:
        return read_memory(Path("/proc/self/status").read_text())
    except (OSError, KeyError):
        return None


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return  # not Linux: no memory is reported either


def _die_with_parent() -> None:
    """A stopped worker whose parent was killed would stay for ever."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _load(setting: Setting) -> "Side | ServerSide":
    # Each engine is imported only where it runs: neither one's threads or memory are the other's.
    if setting.engine == "stepahead":
        from benchmarks.peers.ours import OurSide  # noqa: PLC0415

        return OurSide(setting.path, setting.threads, setting.context_length)
    if setting.engine == "llama.cpp server":
        from benchmarks.peers.server import ServerSide  # noqa: PLC0415

        options = (setting.repack, setting.depth, setting.rates, setting.ngram)
        return ServerSide(setting.path, setting.threads, setting.context_length, *options)
    from benchmarks.peers.theirs import LlamaSide  # noqa: PLC0415

    return LlamaSide(setting.path, setting.threads, setting.context_length, setting.repack)


def _timed_load(setting: Setting) -> "tuple[Side | ServerSide, dict[str, float]]":
    """The libraries are loaded before the clock runs, the model within."""
    modules = {"stepahead": "ours", "llama.cpp": "theirs", "llama.cpp server": "server"}
    __import__(f"benchmarks.peers.{modules[setting.engine]}")
    start = time.perf_counter()
    side = _load(setting)
    loaded = time.perf_counter()
    side.first_token()
    return side, {"load": loaded - start, "first_token": time.perf_counter() - start}


def _serve(side: "Side | ServerSide", line: str) -> dict[str, Any]:
    question = json.loads(line)
    _reset_peak()
    try:
        result = getattr(side, question["method"])(**question["arguments"])
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        result = dataclasses.asdict(result)
    memory = _memory()
    return {"result": result, "memory": memory and dataclasses.asdict(memory)}


def main() -> None:
    _die_with_parent()
    # Whatever a library prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        side, seconds = _timed_load(Setting(**json.loads(sys.argv[1])))
    except Exception as error:
        answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
        return
    answers.write(json.dumps({"seconds": seconds}) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(_serve(side, line)) + "\n")


if __name__ == "__main__":
    main()
