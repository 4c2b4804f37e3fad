"""The machine code of every kernel, for GPUs that need not be there: no spills, tensor cores, wide loads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import stepahead

pytest.importorskip("triton")

SOURCE = Path(stepahead.__file__).parents[1]
PROGRAM = "stepahead.backends.cuda.compile_case"


def compiled(arguments: list[str], cache: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: kernels that were defined for the interpreter cannot be compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=570, env=environment, check=False)


def needs_tools() -> None:
    from stepahead.backends.cuda.machine_code import missing_tools

    if missing := missing_tools():
        pytest.skip(f"this Triton comes without {' and '.join(missing)}, which read machine code")


def test_every_kernel_keeps_what_its_cases_promise(tmp_path: Path) -> None:
    needs_tools()
    found = compiled(["-m", PROGRAM], tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
    print(found.stdout)


def test_broken_promises_are_found(tmp_path: Path) -> None:
    needs_tools()
    found = compiled([str(Path(__file__).with_name("faulty_kernels.py"))], tmp_path).stdout
    for fault in (
        "no instruction of the tensor cores",
        "registers, at most 8",
        "no load of 16 bytes",
        "times I2F, which is forbidden",
        "no LDGSTS, which is required",
        "lane-operations a unit, at most 0.1",
        "bytes of shared memory, at most 101376",
    ):
        assert found.count(fault) == 1, found
    assert found.count("in memory instead of registers") == 2, found


def test_all_norms_add_squares_in_one_order(tmp_path: Path) -> None:
    """Those of a row, of a sum, of the parts of a product and of experts: the layout decides the order."""
    done = compiled([str(Path(__file__).with_name("norm_layouts.py"))], tmp_path)
    lines = [line.split("; ") for line in done.stdout.splitlines()]
    assert len(lines) == 4, done.stdout + done.stderr
    assert all(len(fields) == 4 for fields in lines), done.stdout


def test_the_interpreter_compiles_nothing() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", PROGRAM]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert found.returncode == 2
    assert "unset it" in found.stderr
