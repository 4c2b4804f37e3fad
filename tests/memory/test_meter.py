"""The meter counts what the CPU backend takes: the same code on both leaves the same pool behind."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepahead.backends.base import Backend
from stepahead.backends.cpu.ops import CpuBackend
from stepahead.gguf import GGUFFile
from stepahead.memory.arena_count import MAX_IDLE, SMALLEST, ArenaCount, class_bytes, class_of
from stepahead.memory.meter import Meter
from stepahead.memory.passes import run_passes, tail_nbytes
from stepahead.models.registry import load_model

CLOSE = 0.01


def anonymous_nbytes() -> int:
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(text.split("Anonymous:")[1].split()[0])


@given(st.integers(0, 1 << 40))
def test_a_class_holds_what_is_asked_and_at_most_a_quarter_more(nbytes):
    size = class_bytes(class_of(nbytes))
    assert nbytes <= size
    assert size <= max(1.25 * nbytes + SMALLEST, SMALLEST)


def test_what_is_given_back_is_taken_again():
    arena = ArenaCount()
    first = arena.acquire(1000)
    arena.release(first)
    assert arena.acquire(1010) is first
    assert arena.peak == 1010
    assert arena.nbytes_idle == 0


def test_idle_memory_has_a_limit():
    arena = ArenaCount()
    blocks = [arena.acquire(100 << 20) for _ in range(4)]
    for block in blocks:
        arena.release(block)
    assert arena.nbytes_idle <= 256 << 20
    assert arena.nbytes_in_use == 0
    assert arena.peak == 400 << 20


def test_what_is_idle_the_longest_goes_first():
    arena = ArenaCount()
    first, second, third = (arena.acquire(size << 20) for size in (100, 40, 100))
    for block in (first, second):
        arena.release(block)
    arena.release(arena.acquire(100 << 20))  # now the second is the oldest
    arena.release(third)
    assert arena.acquire(40 << 20) is not second
    assert arena.acquire(100 << 20) is third
    assert arena.acquire(100 << 20) is first
    assert arena.nbytes_idle == 0
    assert arena.peak == 240 << 20


def test_one_block_does_not_drive_all_others_out():
    arena = ArenaCount()
    small = arena.acquire(1 << 20)
    arena.release(small)
    arena.release(arena.acquire(300 << 20))
    assert arena.acquire(1 << 20) is small
    assert arena.nbytes_in_use == 1 << 20


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="asks the system of Linux")
def test_what_goes_back_to_the_system_is_not_kept_by_an_allocator():
    """Which keeps all that lies between blocks that are still used."""
    backend = CpuBackend(threads=1)
    np.ones(4 << 20, np.float32)  # comes and goes: from now on glibc has such sizes, and smaller ones, in its heap
    before = anonymous_nbytes()
    large, small = [], []
    for _ in range(400):
        large.append(backend.zeros(1, 1 << 18))
        small.append(backend.zeros(1, 1 << 10))
    assert anonymous_nbytes() - before > MAX_IDLE + (100 << 20)
    large.clear()
    assert anonymous_nbytes() - before < MAX_IDLE + (16 << 20)
    assert backend._context.bytes_idle <= MAX_IDLE


@pytest.mark.parametrize("model", ["f32", "q8_0", "q4_k"])
@pytest.mark.parametrize("threads", [1, 2])
def test_passes_leave_the_same_pool_behind(model_path, model, threads):
    backend = CpuBackend(threads=threads)
    meter = Meter(cast(Backend, backend))
    with GGUFFile.open(model_path(model)) as file:
        real = load_model(file, cast(Backend, backend), file)
        dry = load_model(file, cast(Backend, meter), file)
        context = backend._context
        before = context.bytes_idle, meter.arena.nbytes_idle
        sizes = list(run_passes(real, cast(Backend, backend), 96))
        assert sizes == list(run_passes(dry, cast(Backend, meter), 96))
        taken, counted = context.bytes_idle - before[0], meter.arena.nbytes_idle - before[1]
    assert counted == pytest.approx(taken, rel=CLOSE)


def test_hidden_rows_of_a_sequence_are_those_of_its_levels(model_path):
    backend = CpuBackend(threads=1)
    meter = Meter(cast(Backend, backend))
    with GGUFFile.open(model_path("f32")) as file:
        dry = load_model(file, cast(Backend, meter), file)
        short, long, longer = (tail_nbytes(dry, meter, tokens, 64) for tokens in (64, 2000, 4000))
    assert short < long == longer
    # Three levels, the first with a window of 16 for each head, and what a rollback and a snapshot need.
    rows = [3 * 16 + 3 + 64 + 64, 2 * 16 + 3 + 64, 16 + 3 + 64]
    assert long == pytest.approx(sum(rows) * 128 * 4, rel=0.25)


def test_no_value_is_needed():
    backend = CpuBackend(threads=1)
    meter = Meter(cast(Backend, backend))
    assert meter.download(meter.zeros(2, 3)).shape == (2, 3)
    assert meter.argmax(meter.zeros(2, 3)).dtype == np.int32
