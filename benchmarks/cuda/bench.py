"""What all parts share: the backend, its clock and bandwidth, the report, and how much time is left."""

import contextlib
import gc
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.cuda.report import Report
from benchmarks.cuda.timing import Timer, replay_seconds
from stepahead.backends.cuda.ops import CudaBackend
from stepahead.backends.cuda.rows import Rows

COPIED_BYTES = 1 << 30
COLD_BYTES = 400 << 20
"""That calls of a case read in all before they read the same again: caches have 60 MB."""
LOAD_SECONDS = 1.5
"""Of work queued before a clock is asked for: nvidia-smi takes one to start."""


class Bench:
    """One GPU and one run. toy: the smallest shapes, once, in the interpreter; no time means anything."""

    def __init__(self, report: Report, is_toy: bool) -> None:
        self.report = report
        self.is_toy = is_toy
        self.backend = CudaBackend()
        self.device = self.backend.device.torch
        self.launch = self.backend.launch
        self.timer = Timer(self.backend.device.is_interpreted)
        self.made: Any = None  # the large model, once a part has made it
        self._bandwidth: float | None = None
        self._until = np.inf

    @property
    def name(self) -> str:
        return self.backend.device.name

    @contextlib.contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        """Within it `has_time` says whether another case may begin."""
        self._until = time.perf_counter() + seconds
        try:
            yield
        finally:
            self._until = np.inf

    def has_time(self, part: str, case: str) -> bool:
        """False is reported: the case is left out."""
        if time.perf_counter() < self._until:
            return True
        self.report(part, case, skipped="no time left for this part")
        return False

    @property
    def bandwidth(self) -> float:
        """Bytes a second of a copy, read and written ones counted; measured once in this run."""
        if self._bandwidth is None:
            self._bandwidth = self._copy_bandwidth()
        return self._bandwidth

    def _copy_bandwidth(self) -> float:
        nbytes = 1 << 12 if self.is_toy else COPIED_BYTES
        source = torch.randint(0, 256, (nbytes,), dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2 * nbytes / self.timer.seconds({"copy": [lambda: target.copy_(source)]})["copy"]

    def share(self, nbytes: float, seconds: float) -> float:
        """Of the bandwidth of a copy."""
        return nbytes / seconds / self.bandwidth

    def rows(self, num_rows: int, width: int, seed: int = 0) -> Rows:
        """Random ones; their halves are made by the first product."""
        values = np.random.default_rng(seed).standard_normal((num_rows, width), np.float32)
        return Rows(torch.from_numpy(values).to(self.device))

    def copies(self, nbytes: int) -> int:
        """How many copies of something are needed so that no cache holds what is read next."""
        return 1 if self.is_toy else max(1, -(-COLD_BYTES // nbytes))

    def clock(self, call: Callable[[], object]) -> str:
        """What nvidia-smi says of the device while `call` runs over and over."""
        if self.is_toy:
            return "no device"
        graph = self.timer.captured([call])
        for _ in range(min(int(LOAD_SECONDS / replay_seconds([graph])), 900)):
            graph.replay()
        fields = "clocks.sm,clocks.mem,power.draw,temperature.gpu"
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
        try:
            told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        except (OSError, subprocess.SubprocessError) as error:
            told = f"unknown ({type(error).__name__})"
        torch.cuda.synchronize()
        return told.strip().splitlines()[0]

    def free_memory(self) -> None:
        """Give back what nobody holds any more."""
        gc.collect()
        if not self.is_toy:
            torch.cuda.empty_cache()
