"""How many threads: affinity, SMT siblings, cgroup quotas, the environment."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from stepahead.backends.cpu.ops import CpuBackend
from stepahead.backends.cpu.threads import cgroup_cpus, default_threads, physical_cores, resolve_threads
from stepahead.errors import ConfigError
from stepahead.gguf import QuantType


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_siblings_count_once(tmp_path: Path) -> None:
    for cpu in range(8):
        write(tmp_path / f"cpu{cpu}/topology/core_cpus_list", f"{cpu % 4},{cpu % 4 + 4}\n")
    assert physical_cores(range(8), tmp_path) == 4
    assert physical_cores([0, 4], tmp_path) == 1
    assert physical_cores([0, 1, 5], tmp_path) == 2
    assert physical_cores([40, 41], tmp_path) == 2  # no topology: a core each


def test_old_kernels_name_siblings_otherwise(tmp_path: Path) -> None:
    for cpu in range(4):
        write(tmp_path / f"cpu{cpu}/topology/thread_siblings_list", f"{cpu // 2 * 2}-{cpu // 2 * 2 + 1}\n")
    assert physical_cores(range(4), tmp_path) == 2


def test_the_tightest_quota_of_cgroup_2_counts(tmp_path: Path) -> None:
    membership, root = tmp_path / "cgroup", tmp_path / "fs"
    write(membership, "0::/outer/inner\n")
    assert cgroup_cpus(membership, root) is None
    write(root / "outer/inner/cpu.max", "max 100000\n")
    assert cgroup_cpus(membership, root) is None
    write(root / "outer/cpu.max", "250000 100000\n")
    assert cgroup_cpus(membership, root) == 2.5
    write(root / "cpu.max", "300000 100000\n")
    assert cgroup_cpus(membership, root) == 2.5


def test_quota_of_cgroup_1(tmp_path: Path) -> None:
    membership, root = tmp_path / "cgroup", tmp_path / "fs"
    write(membership, "4:memory:/x\n3:cpu,cpuacct:/x\n")
    write(root / "cpu/x/cpu.cfs_quota_us", "150000\n")
    write(root / "cpu/x/cpu.cfs_period_us", "100000\n")
    assert cgroup_cpus(membership, root) == 1.5
    write(root / "cpu/x/cpu.cfs_quota_us", "-1\n")
    assert cgroup_cpus(membership, root) is None


def test_a_machine_without_cgroups(tmp_path: Path) -> None:
    assert cgroup_cpus(tmp_path / "none", tmp_path) is None


def test_argument_then_environment_then_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEPAHEAD_THREADS", raising=False)
    assert resolve_threads(None) == default_threads() >= 1
    monkeypatch.setenv("STEPAHEAD_THREADS", "3")
    assert (resolve_threads(None), resolve_threads(2)) == (3, 2)


@pytest.mark.parametrize("text", ["", "four", "0", "-1", "2.5", "99999"])
def test_an_environment_that_makes_no_sense_stops(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPAHEAD_THREADS", text)
    with pytest.raises(ConfigError, match=f"STEPAHEAD_THREADS='?{text}"):
        resolve_threads(None)


def test_an_argument_that_makes_no_sense_is_refused() -> None:
    for threads in (0, -2, 1025):
        with pytest.raises(ConfigError, match=f"threads={threads}"):
            resolve_threads(threads)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_an_affinity_mask_is_a_limit() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert default_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def product(backend: CpuBackend) -> np.ndarray:
    """One that is worth all threads."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((2048, 1024), dtype=np.float32)
    matrix = backend.load_matrix(weights.view(np.uint8).reshape(-1), QuantType.F32, (2048, 1024))
    return backend.download(backend.linear(backend.upload(weights[:8]), matrix))


def test_any_of_the_threads_may_rest() -> None:
    backend = CpuBackend(threads=4)
    assert backend.threads == 4
    expected = product(backend)
    for threads in (1, 4, 2, 3):
        backend.threads = threads
        assert backend.threads == threads
        assert product(backend).tobytes() == expected.tobytes()
    assert backend.describe()["threads"] == 4
    with pytest.raises(ConfigError, match=r"threads=5 .* 1 to 4"):
        backend.threads = 5


def test_threads_sleep_between_requests() -> None:
    backend = CpuBackend(threads=4)
    for _ in range(3):
        product(backend)
    start = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - start < 0.1  # three threads that spin would take up to 0.6 seconds
