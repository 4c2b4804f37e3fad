"""Every command that writes a model file, killed anywhere: what has the name of a model is a whole one, new or old.

A process that has imported all forks for each kill, and the fork runs the command. The system ends it when a file grows
beyond a number of bytes (RLIMIT_FSIZE, as suddenly as SIGKILL), or it kills itself before a step that changes a name.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from stepahead.gguf import GGUFFile, TypedValue, ValueType
from support.hub_checkpoint import hub_tensors, write_hub
from support.random_step35 import Shape
from support.spliced import SMALL, write

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and RLIMIT_FSIZE")

FORKING = """
import importlib, json, os, resource, signal, sys
import numpy.ma, rich.progress, rich.table
for name in ("cli.app", "cli.convert", "cli.doctor", "cli.file_report", "convert.conversion", "filecheck.checked",
             "filecheck.fixed_file", "hub.registry", "quantize.quantization", "splice"):
    importlib.import_module(f"stepahead.{name}")
from stepahead.cli import main
main(["convert", "/nowhere", "-o", "/nowhere.gguf"])  # what an argument list brings in, once and not in each fork

def run(job):
    steps = 0
    def watch(event, arguments):
        nonlocal steps
        if event in ("os.rename", "os.remove") and str(arguments[0]).startswith(job["folder"]):
            if steps == job["step"]:
                os.kill(os.getpid(), signal.SIGKILL)
            steps += 1
    sys.addaudithook(watch)
    if job["nbytes"] is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["nbytes"], job["nbytes"]))
    os._exit(main(job["arguments"]))

for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        told = os.open(job["told"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(told, 1)
        os.dup2(told, 2)
        run(job)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Runner:
    process: "subprocess.Popen[str]"
    told: Path

    def __call__(
        self, folder: Path, arguments: list[object], step: int | None = None, nbytes: int | None = None
    ) -> int:
        """The exit code, a signal's number below 0. step: before which change of a name it dies."""
        job = {"folder": str(folder), "told": str(self.told), "step": step, "nbytes": nbytes}
        job["arguments"] = [*map(str, arguments)]
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Iterator[Runner]:
    told = tmp_path_factory.mktemp("told") / "told"
    with subprocess.Popen(
        [sys.executable, "-c", FORKING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        yield Runner(process, told)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    shape = Shape(**{**vars(SMALL), "rope_freqs": False})
    write_hub(folder / "hub", shape, hub_tensors(shape, "BF16"))
    for part in ("full", "trunk", "heads"):
        write(folder / f"{part}.gguf", part=part)
    write(folder / "broken.gguf", pairs={"step35.nextn_predict_layers": TypedValue(ValueType.U32, 2)})
    return folder


@dataclass(frozen=True)
class Command:
    """outputs: names of what it writes; of shards, the first."""

    arguments: Callable[[Path, Path], list[object]]
    outputs: tuple[str, ...] = ("out.gguf",)


SHARDS = ("out-00001-of-00003.gguf",)
COMMANDS = {
    "convert": Command(lambda i, o: ["convert", i / "hub", "-o", o / "out.gguf", "--type", "Q8_0"]),
    "convert, split": Command(
        lambda i, o: ["convert", i / "hub", "-o", o / "out.gguf", "--split-size", 0.0001], SHARDS
    ),
    "quantize": Command(lambda i, o: ["quantize", i / "full.gguf", o / "out.gguf", "Q4_0"]),
    "quantize, split": Command(
        lambda i, o: ["quantize", i / "full.gguf", o / "out.gguf", "Q8_0", "--split-size", 0.00005], SHARDS
    ),
    "join": Command(lambda i, o: ["join", i / "trunk.gguf", i / "heads.gguf", "-o", o / "out.gguf"]),
    "split": Command(
        lambda i, o: ["split", i / "full.gguf", "--trunk", o / "a.gguf", "--heads", o / "b.gguf"], ("a.gguf", "b.gguf")
    ),
    "graft": Command(lambda i, o: ["graft", i / "heads.gguf", i / "full.gguf", "-o", o / "out.gguf"]),
    "doctor --fix": Command(lambda i, o: ["doctor", i / "broken.gguf", "--fix", o / "out.gguf"]),
}


def content(path: Path) -> tuple[dict[str, object], dict[str, bytes]] | None:
    """All that a reader sees of a model; None without a file of that name."""
    if not path.exists():
        return None
    with GGUFFile.open(path) as file:
        pairs = {key: str(np.asarray(value).tolist()) for key, value in file.metadata.items()}
        return pairs, {name: file.data(name).tobytes() for name in file.tensors}


@pytest.mark.parametrize("is_there", [False, True], ids=["into an empty folder", "over an old file"])
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_anywhere(run: Runner, inputs: Path, tmp_path: Path, name: str, is_there: bool) -> None:
    command = COMMANDS[name]
    whole = tmp_path / "whole"
    whole.mkdir()
    assert run(whole, command.arguments(inputs, whole)) == 0, run.told.read_text()
    expected = [content(whole / output) for output in command.outputs]
    assert None not in expected
    num_shards = len(list(whole.iterdir())) - len(command.outputs) + 1
    largest = max(path.stat().st_size for path in whole.iterdir())
    rng = np.random.default_rng(len(name))
    kills = [{"nbytes": int(nbytes)} for nbytes in (1, rng.integers(2, largest), largest - 1)]
    kills += [{"step": step} for step in range(num_shards + len(command.outputs) + 1)]
    was_killed = []
    for number, kill in enumerate(kills):
        out = tmp_path / str(number)
        out.mkdir()
        if is_there:
            for output in command.outputs:  # another model, of as many shards
                write(out / f"{output.split('-0')[0].removesuffix('.gguf')}.gguf", part="trunk", num_shards=num_shards)
        before = [content(out / output) for output in command.outputs]
        was_killed.append(run(out, command.arguments(inputs, out), **kill) < 0)
        assert was_killed[-1] or "step" in kill, run.told.read_text()
        for output, past, new in zip(command.outputs, before, expected, strict=True):
            assert content(out / output) in (None, past, new), kill
        left = [path for path in sorted(out.iterdir()) if path.name.endswith(".tmp")]
        strange = {path.name for path in out.iterdir()} - {path.name for path in (*whole.iterdir(), *left)}
        assert not strange, kill
        assert all(path.name.startswith(".") for path in left)
        if left and number % 3 == 0:  # the next run works, and says what lies about
            assert run(out, command.arguments(inputs, out)) == 0, run.told.read_text()
            told = "".join(run.told.read_text().split())
            assert all(path.name in told for path in left)
            assert [content(out / output) for output in command.outputs] == expected
        shutil.rmtree(out)
    assert sum(was_killed) > 3, "nothing was killed among the changes of names"
