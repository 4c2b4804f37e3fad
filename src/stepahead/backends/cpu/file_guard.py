"""A mapped file that is cut short, or whose disk fails, ends the process with a line instead of a bare signal."""

import mmap
from collections.abc import Callable
from functools import partial

import numpy as np

from stepahead._native import guard_file as guard_memory
from stepahead._native import unguard_file


def guard_file(mapping: mmap.mmap, line: str) -> Callable[[], None]:
    """From now on: what ends it. `line` is what stderr gets, line break included; the exit code is 1.

    Takes SIGBUS over, for these files alone. Without effect where the system has no such signal.
    """
    return partial(unguard_file, guard_memory(np.frombuffer(mapping, np.uint8), line.encode()))
