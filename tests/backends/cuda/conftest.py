"""Runs the kernels in Triton's interpreter, unless TRITON_INTERPRET=0 says that there is a GPU to run them on.

Each test file begins with `pytest.importorskip("triton")`: without it, it is skipped and says so.
"""

import os
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined: before any test here imports one

if os.environ["TRITON_INTERPRET"] == "0":
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.exit("TRITON_INTERPRET=0 asks for a GPU, and torch sees none", returncode=1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Triton 3.6's interpreter cannot loop with numpy 2.4 and later."""
    try:
        triton = tuple(map(int, version("triton").split(".")[:2]))
    except PackageNotFoundError:
        return
    if os.environ["TRITON_INTERPRET"] == "0" or triton >= (3, 7) or np.lib.NumpyVersion(np.__version__) < "2.4.0":
        return
    reason = "Triton 3.6 interprets no loop with this numpy: triton>=3.7 or numpy<2.4, or a GPU and TRITON_INTERPRET=0"
    for item in items:
        if "backends/cuda" in item.nodeid and "test_compiled" not in item.nodeid:
            item.add_marker(pytest.mark.skip(reason=reason))
