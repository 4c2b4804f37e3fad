"""The NEON kernels, on machines that have none: cross-compiled, and run by an emulator (native/tests/run_emulated.sh).

They are compared with the scalar kernels of the same build, bit for bit.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "native" / "tests" / "run_emulated.sh"
TOOLS = ("cmake", "aarch64-linux-gnu-g++", "qemu-aarch64")
# The build installs its own cmake beside this Python where the system has none.
PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))


def test_neon_has_the_bits_of_scalar() -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool, path=PATH) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not here: on Debian, apt install g++-aarch64-linux-gnu qemu-user")
    result = subprocess.run([SCRIPT], env={**os.environ, "PATH": PATH}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "kernels have the bits of scalar: neon\n" in result.stdout  # the old core
    assert "kernels have the bits of scalar: neon_dotprod neon\n" in result.stdout
