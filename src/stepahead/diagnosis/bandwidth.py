"""How fast threads read memory: the least time that a pass over a model's weights can take.

Must not know: models, engines.
"""

import ctypes
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

READ_BYTES = 512 << 20  # beyond any cache
READ_PASSES = 3  # the best of them is what the machine can do


def read_bandwidth(threads: int, nbytes: int = READ_BYTES) -> float:
    """Bytes a second, once."""
    bandwidth = ReadBandwidth(threads, nbytes)
    try:
        return bandwidth.measure()
    finally:
        bandwidth.close()


class ReadBandwidth:
    """How fast `threads` threads read memory, each a stretch of its own, with the C library's search for a byte."""

    def __init__(self, threads: int, nbytes: int) -> None:
        self._memory = np.ones(nbytes // threads * threads, np.uint8)  # written, so that every page is there
        self._stretch = len(self._memory) // threads
        self._pool = ThreadPoolExecutor(threads)
        self._threads = threads
        self._search = _memchr()

    def measure(self) -> float:
        """Bytes a second, the best of a few passes."""
        return max(self._pass() for _ in range(READ_PASSES))

    def close(self) -> None:
        self._pool.shutdown()

    def _pass(self) -> float:
        start = time.perf_counter()
        for found in self._pool.map(self._read, range(self._threads)):
            assert found is None, "there is no such byte"
        return len(self._memory) / (time.perf_counter() - start)

    def _read(self, number: int) -> int | None:
        address = self._memory.ctypes.data + number * self._stretch
        return self._search(address, 0, self._stretch)


def _memchr() -> Callable[[int, int, int], int | None]:
    """Reads every byte and writes none; ctypes lets other threads run meanwhile."""
    function = ctypes.CDLL("msvcrt" if sys.platform == "win32" else None).memchr
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    return function
