"""Runs the kernels in Triton's interpreter, unless TRITON_INTERPRET=0 says that there is a GPU to run them on.

Each test file begins with `pytest.importorskip("triton")`: without it, it is skipped and says so.
"""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined: before any test here imports one
