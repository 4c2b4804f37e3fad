"""A mapped file that is cut short ends the process with its line; whatever else SIGBUS means stays as it was."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="this system has no SIGBUS")

BEGINNING = """
import faulthandler, mmap, os, pathlib, signal, sys, threading
import numpy as np
from stepahead import _native
from stepahead.backends.cpu.file_guard import guard_file
folder = pathlib.Path(sys.argv[1])

def mapped(name):
    path = folder / name
    path.write_bytes(bytes(100_000))
    with path.open("r+b") as file:
        return path, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

path, mapping = mapped("a")
other_path, other = mapped("b")
"""


def run(program: str, folder: Path) -> tuple[int, str, str]:
    command = [sys.executable, "-c", BEGINNING + program, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


READS = {
    "from Python": "print(mapping[90_000])",
    "by numpy": "print(np.frombuffer(mapping, np.uint8).sum())",
    "in a thread": "threading.Thread(target=lambda: print(mapping[90_000])).start()",
    "natively": """
data = np.frombuffer(mapping, np.uint8)[: 34 * 2048]
context = _native.Context(2, "scalar")
x = context.upload(np.ones((1, 64), np.float32))
print(context.linear(x, _native.Matrix(data, 8, (1024, 64))).numpy().sum())
""",
}


@pytest.mark.parametrize("read", READS)
def test_a_file_that_is_cut_short_is_named(read: str, tmp_path: Path) -> None:
    program = f"guard_file(other, 'b\\n'); guard_file(mapping, 'a is no more\\n'); os.truncate(path, 10)\n{READS[read]}"
    assert run(program, tmp_path) == (1, "", "a is no more\n")


def test_what_is_there_can_be_read(tmp_path: Path) -> None:
    assert run("guard_file(mapping, 'a'); os.truncate(path, 50_000); print(mapping[40_000])", tmp_path) == (
        0,
        "0\n",
        "",
    )


OTHERS = {
    "another file": "guard_file(mapping, 'a\\n'); os.truncate(other_path, 10); other[90_000]",
    "a file no longer guarded": "guard_file(mapping, 'a\\n')(); os.truncate(path, 10); mapping[90_000]",
    "a signal that is sent": "guard_file(mapping, 'a\\n'); os.kill(os.getpid(), signal.SIGBUS)",
}


@pytest.mark.parametrize("case", OTHERS)
def test_every_other_signal_does_what_it_did(case: str, tmp_path: Path) -> None:
    assert run(OTHERS[case], tmp_path) == (-signal.SIGBUS, "", "")
    code, _, told = run(f"faulthandler.enable(); {OTHERS[case]}", tmp_path)
    assert code == -signal.SIGBUS and told.startswith("Fatal Python error: Bus error")


def test_places_in_the_table_are_used_again(tmp_path: Path) -> None:
    program = """
data = np.zeros(8, np.uint8)
slots = [_native.guard_file(data, b"x") for _ in range(2000)]
assert sorted(slots)[-1] == 1023 and slots.count(-1) == 976
for slot in slots:
    _native.unguard_file(slot)
for _ in range(5000):
    guard_file(mapping, "a\\n")()
guard_file(mapping, "the last\\n")
os.truncate(path, 10)
mapping[90_000]
"""
    assert run(program, tmp_path) == (1, "", "the last\n")
