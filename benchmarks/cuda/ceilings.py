"""M0: what this device can do at all: copies, reads, and what lies between two kernels."""

from collections.abc import Callable

import torch

from benchmarks.cuda.bench import COPIED_BYTES, Bench
from benchmarks.cuda.kernels import read_blocks, tiny, tiny_dependent
from benchmarks.cuda.timing import Call, eager_seconds, replay_seconds

NUM_TINY = 500
"""Kernels in a chain: about a step's."""
BLOCK = 4096
PROGRAMS = (1, 2, 4, 8)
"""A multiprocessor."""


def measure(bench: Bench) -> None:
    copy = bench.bandwidth
    read, programs = _read_bandwidth(bench)
    bench.report("M0", "bandwidth", copy_gb_s=copy / 1e9, read_gb_s=read / 1e9, programs_a_multiprocessor=programs)
    x = torch.zeros(1, device=bench.device)

    def chain() -> None:
        for _ in range(2 if bench.is_toy else NUM_TINY):
            bench.launch(tiny, (1,), x, num_warps=1)

    chain()
    if bench.is_toy:
        bench.report("M0", "gap", chained=float(x[0]))
        return
    eager = eager_seconds(chain) / NUM_TINY
    replayed = _chain_gap(bench, lambda: bench.launch(tiny, (1,), x, num_warps=1))
    bench.report("M0", "gap", eager_us=1e6 * eager, replayed_us=1e6 * replayed)
    big = torch.randint(0, 256, (COPIED_BYTES,), dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(big)
    bench.report("M0", "clock", clock=bench.clock(lambda: target.copy_(big)))
    if bench.backend.device.arch >= 90:
        dependent = _chain_gap(bench, lambda: tiny_dependent[(1,)](x, num_warps=1, launch_pdl=True))
        bench.report("M0", "gap, launched early", replayed_us=1e6 * dependent)


def _chain_gap(bench: Bench, call: Callable[[], object]) -> float:
    graph = bench.timer.captured([call] * NUM_TINY)
    return min(replay_seconds([graph]) for _ in range(5)) / NUM_TINY


def _read_bandwidth(bench: Bench) -> tuple[float, int]:
    """The best, and programs a multiprocessor that give it."""
    nbytes = BLOCK * 8 if bench.is_toy else COPIED_BYTES
    x = torch.randint(-(1 << 31), 1 << 31, (nbytes // 4,), dtype=torch.int32, device=bench.device)
    num_sms = bench.backend.device.num_sms or 1
    out = torch.zeros(num_sms * max(PROGRAMS), dtype=torch.int32, device=bench.device)
    blocks = x.numel() // BLOCK

    def reader(programs: int) -> list[Call]:
        return [lambda: bench.launch(read_blocks, (programs * num_sms,), x, out, blocks, BLOCK=BLOCK, num_warps=8)]

    times = bench.timer.seconds({str(n): reader(n) for n in PROGRAMS[: 1 if bench.is_toy else None]})
    best = min(times, key=times.__getitem__)
    return nbytes / times[best], int(best)
