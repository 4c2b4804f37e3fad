"""How many threads to compute with: the physical cores that this process may use.

A second thread on a core only takes turns with the first, so SMT siblings count once; an affinity mask and a cgroup's
CPU quota are limits as real as the number of cores. Must not know: backends, kernels.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from stepahead.errors import ConfigError

MAX_THREADS = 1024
VARIABLE = "STEPAHEAD_THREADS"


def resolve_threads(threads: int | None) -> int:
    """The argument, else STEPAHEAD_THREADS, else one for each physical core that may be used."""
    if threads is not None:
        return _checked(threads, f"threads={threads}")
    text = os.environ.get(VARIABLE)
    if text is None:
        return default_threads()
    try:
        value = int(text)
    except ValueError:
        raise ConfigError(f"{VARIABLE}={text!r} is not a number of threads; give 1 to {MAX_THREADS}") from None
    return _checked(value, f"{VARIABLE}={text}")


def default_threads() -> int:
    """Physical cores within the affinity mask, at most the whole CPUs of the cgroup's quota, at least one."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = physical_cores(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    quota = cgroup_cpus()
    if quota is not None:
        cores = min(cores, int(quota))
    return min(max(cores, 1), MAX_THREADS)


def physical_cores(cpus: Iterable[int], root: Path = Path("/sys/devices/system/cpu")) -> int:
    """How many cores these logical CPUs are; a CPU whose topology cannot be read counts as a core of its own."""
    cores = set()
    for cpu in cpus:
        topology = root / f"cpu{cpu}" / "topology"
        siblings = _read(topology / "core_cpus_list") or _read(topology / "thread_siblings_list") or str(cpu)
        cores.add(siblings)
    return len(cores)


def cgroup_cpus(membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPUs that the tightest cgroup above this process grants, version 1 or 2; None: no limit."""
    limits = []
    for line in (_read(membership) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "cpu" if controllers else root
        here = base / path.lstrip("/")
        # Within a container the path may be the host's: then only the root of the mount is there to be read.
        for folder in (here, *here.parents):
            if folder.is_relative_to(base):
                limits.append(_quota(folder, bool(controllers)))
    return min((limit for limit in limits if limit is not None), default=None)


def _quota(folder: Path, is_version_1: bool) -> float | None:
    if is_version_1:
        words = [_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")]
    else:
        words = [*(_read(folder / "cpu.max") or "").split(), None, None]
    quota, period = words[:2]
    if quota is None or period is None or not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return None  # "max", -1, or not there
    return int(quota) / int(period)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip() or None
    except OSError:
        return None


def _checked(threads: int, source: str) -> int:
    if not 1 <= threads <= MAX_THREADS:
        raise ConfigError(f"{source} is out of range; give 1 to {MAX_THREADS}")
    return threads
