"""What this computer is: facts that a measured figure is nothing without. Must not know: models, backends."""

import os
import platform
import time
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def cpu_name() -> str:
    """As its maker calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or "unknown CPU"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name") and ":" in line]
    return names[0] if names else platform.processor() or "unknown CPU"


def system_name() -> str:
    return f"{platform.system()} {platform.machine()}"


def total_memory() -> int | None:
    """Bytes of memory that programs here may use together; None where the system does not say.

    In a container that is what its group may have.
    """
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
    limits = [physical]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return min(limits)


def major_faults() -> int:
    """How often this process has waited for the disk because memory was touched; 0 where nobody counts."""
    return 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_majflt


class OtherPrograms:
    """How many CPUs they use, from the start on."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._seconds = cpu_seconds_of_others(os.getpid())

    def cpus(self) -> float:
        now, passed = cpu_seconds_of_others(os.getpid()), time.perf_counter() - self._started
        return max(now - self._seconds, 0.0) / passed if now is not None and self._seconds is not None else 0.0


def cpu_seconds_of_others(pid: int) -> float | None:
    """CPU seconds since the machine started, of all processes but one; None where the system does not say."""
    try:
        total = Path("/proc/stat").read_text().split("\n", 1)[0]
        mine = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return cpu_of_others(total, mine, os.sysconf("SC_CLK_TCK"))


def cpu_of_others(total: str, mine: str, ticks: int) -> float:
    """CPU seconds from the first line of /proc/stat, less those of a process, from its own stat."""
    user, nice, system, _idle, _iowait, *interrupts_and_steal = (int(word) for word in total.split()[1:9])
    after_name = mine.rsplit(")", 1)[1].split()
    return (user + nice + system + sum(interrupts_and_steal) - int(after_name[11]) - int(after_name[12])) / ticks
