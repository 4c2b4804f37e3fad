"""A conversion that is killed, or runs out of disk or memory, leaves nothing that looks whole; memory does not grow."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from stepahead.convert import convert
from stepahead.errors import CapacityError, ConfigError, StepaheadError
from stepahead.gguf import GGUFFile
from support.hub_checkpoint import hub_config, hub_tensors, write_hub
from support.random_step35 import Shape

PRELUDE = """
import os, signal, sys
from pathlib import Path
from stepahead.convert import convert, stream
folder, out = map(Path, sys.argv[1:3])
"""


def run(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", PRELUDE + textwrap.dedent(script), *map(str, args)]
    return subprocess.run(program, capture_output=True, text=True, check=False)


KILLED = """
stream.PIECE_ELEMENTS = 1000
calls = int(sys.argv[3])
def count(done, total):
    global calls
    calls -= 1
    if calls == 0 or (calls < 0 and done == total):
        os.kill(os.getpid(), signal.SIGKILL)
convert(folder, out, type="Q8_0", max_shard_bytes=eval(sys.argv[4]), on_progress=count)
"""


@pytest.mark.parametrize("calls", [1, 200, 0], ids=["at the beginning", "in the middle", "before the end"])
def test_killed_while_writing(hub, tmp_path: Path, calls: int) -> None:
    folder, out = hub(), tmp_path / "out.gguf"
    before = convert(folder, out, type="BF16").files[0].read_bytes()
    assert run(KILLED, folder, out, calls, None).returncode == -signal.SIGKILL
    assert out.read_bytes() == before
    report = convert(folder, out, type="Q8_0")
    # What is left over bears no name of a model, and is named.
    assert [path.suffix for path in report.left_over] == [".tmp"]
    assert GGUFFile.open(out).metadata["general.file_type"] == 7


AT_RENAMES = """
renames = int(sys.argv[3])
replace = Path.replace
def counted(self, target):
    global renames
    if renames == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    renames -= 1
    return replace(self, target)
Path.replace = counted
convert(folder, out, type="Q8_0", max_shard_bytes=300_000)
"""


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_killed_while_shards_take_their_places(hub, tmp_path: Path, renames: int) -> None:
    folder, out = hub(), tmp_path / "out.gguf"
    old = convert(folder, out, type="Q8_0", max_shard_bytes=300_000).files
    assert len(old) > 2
    assert run(AT_RENAMES, folder, out, renames).returncode == -signal.SIGKILL
    with pytest.raises(ConfigError):
        GGUFFile.open(old[0])
    with pytest.raises(StepaheadError):
        GGUFFile.open(old[1])


def test_interrupted_by_hand(hub, tmp_path: Path) -> None:
    folder = hub()

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(folder, tmp_path / "out.gguf", on_progress=interrupt)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_disk_without_room(hub, tmp_path: Path, monkeypatch) -> None:
    folder = hub()
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(CapacityError, match=r"out\.gguf: takes 0\.\d GB, but .* has 0\.0 GB free; give another folder"):
        convert(folder, tmp_path / "out.gguf")
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "the disk filled up"),
        (errno.EDQUOT, "the disk filled up"),
        (errno.EIO, "cannot be written: Input"),
    ],
)
def test_a_disk_that_fails_on_the_way(hub, tmp_path: Path, monkeypatch, number: int, message: str) -> None:
    folder = hub()

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((CapacityError, ConfigError), match=rf"out\.gguf: {message}"):
        convert(folder, tmp_path / "out.gguf")
    assert list(tmp_path.iterdir()) == [folder]


LIMITED = """
import resource
from stepahead.errors import CapacityError
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    convert(folder, out)
except CapacityError as error:
    print(error)
"""


def test_a_file_too_large_for_its_disk(hub, tmp_path: Path) -> None:
    folder = hub()
    found = run(LIMITED, folder, tmp_path / "out.gguf")
    assert "too large a file for this disk; write several: --split-size 4" in found.stdout, found.stderr
    assert list(tmp_path.iterdir()) == [folder]


# Not by getrusage: what it gives begins with the memory of the process that forked this one.
MEASURED = """
from stepahead.convert import conversion
conversion.MAX_WORKERS = 2
convert(folder, out, type="F32")
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory as Linux gives it")
def test_memory_is_that_of_the_pieces(tmp_path: Path) -> None:
    """Three stacks of 113 MB in BF16, 227 MB in F32, of which no more than pieces are in memory."""
    shape = Shape(num_trunk=1, num_heads_mtp=0, dense_lead=0, num_experts=54, expert_width=1024, hidden=1024)
    shape = Shape(**{**vars(shape), "rope_freqs": False})
    small = Shape(**{**vars(shape), "num_experts": 2, "expert_width": 32})
    tensors = hub_tensors(small, "BF16")
    for name, (dtype, array) in tensors.items():
        if ".moe.gate_proj" in name or ".moe.up_proj" in name:
            tensors[name] = (dtype, np.broadcast_to(array[:1, :1], (54, 1024, 1024)))
        elif ".moe.down_proj" in name:
            tensors[name] = (dtype, np.broadcast_to(array[:1, :, :1], (54, 1024, 1024)))
        elif ".moe.gate.weight" in name or "router_bias" in name:
            tensors[name] = (dtype, np.resize(array, (54, *array.shape[1:])))
    folder = write_hub(tmp_path / "hub", shape, tensors, hub_config(shape, nested=False))
    found = run(MEASURED, folder, tmp_path / "out.gguf")
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "out.gguf").stat().st_size > 680_000_000
    assert int(found.stdout) < 220_000  # kB
