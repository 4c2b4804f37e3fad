"""How much memory this process could still take: what the system calls available, within the limits of its cgroups.

Must not know: models, plans.
"""

import ctypes
import re
import sys
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
MEMBERSHIP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60  # version 1 writes a number about 2^63 where there is no limit


def free_memory() -> int | None:
    """In bytes; files that are only cached count as free. None: this system does not say."""
    if sys.platform == "darwin":
        return _mac_memory()
    if sys.platform == "win32":
        return _windows_memory()
    return linux_memory()


def linux_memory(meminfo: Path = MEMINFO, membership: Path = MEMBERSHIP, cgroups: Path = CGROUPS) -> int | None:
    """MemAvailable, or what the tightest cgroup leaves, if that is less."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _read(meminfo), re.MULTILINE)
    if match is None:
        return None
    return max(min([1024 * int(match[1]), *_cgroup_rooms(membership, cgroups)]), 0)


def vm_stat_memory(text: str) -> int | None:
    """Of what macOS' vm_stat prints: pages that are free or can be had at once."""
    page = re.search(r"page size of (\d+) bytes", text)
    counts = {name: int(count) for name, count in re.findall(r"^Pages (\w+):\s+(\d+)\.", text, re.MULTILINE)}
    if page is None or "free" not in counts:
        return None
    return int(page[1]) * sum(counts.get(name, 0) for name in ("free", "inactive", "speculative", "purgeable"))


def _cgroup_rooms(membership: Path, root: Path) -> list[int]:
    rooms: list[int | None] = []
    for line in _read(membership).splitlines():
        words = line.split(":", 2)
        if len(words) != 3 or (words[1] and "memory" not in words[1].split(",")):
            continue
        is_version_1 = bool(words[1])
        base = root / "memory" if is_version_1 else root
        here = base / words[2].lstrip("/")
        # Within a container the path may be the host's: then only the root of the mount is there to be read.
        for folder in (here, *here.parents):
            if folder.is_relative_to(base):
                rooms.append(_room(folder, is_version_1))
    return [room for room in rooms if room is not None]


def _room(folder: Path, is_version_1: bool) -> int | None:
    """What a cgroup's limits leave; files that it has cached give way to what is asked for."""
    used = _read(folder / ("memory.usage_in_bytes" if is_version_1 else "memory.current")).strip()
    stat = _read(folder / "memory.stat")
    if is_version_1:
        # Within a container, groups above it are not to be read; the least of their limits is.
        inherited = re.findall(r"^hierarchical_memory_limit (\d+)$", stat, re.MULTILINE)
        limits = [_read(folder / "memory.limit_in_bytes").strip(), *inherited]
    else:
        # Beyond `high` nobody is ended, but all are slowed down until they hardly move.
        limits = [_read(folder / name).strip() for name in ("memory.max", "memory.high")]
    # What is no number is "max", or not there.
    limit = min((int(text) for text in limits if text.isdecimal()), default=UNLIMITED)
    if limit >= UNLIMITED or not used.isdecimal():
        return None
    pattern = rf"^{'total_' if is_version_1 else ''}(?:in)?active_file (\d+)$"
    return limit - int(used) + sum(map(int, re.findall(pattern, stat, re.MULTILINE)))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _mac_memory() -> int | None:
    import subprocess  # noqa: PLC0415 (nobody else needs it to start)

    try:
        found = subprocess.run(["/usr/bin/vm_stat"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return vm_stat_memory(found.stdout)


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of Windows."""

    _fields_ = (
        ("dwLength", ctypes.c_uint32),
        ("dwMemoryLoad", ctypes.c_uint32),
        ("ullTotalPhys", ctypes.c_uint64),
        ("ullAvailPhys", ctypes.c_uint64),
        ("ullTotalPageFile", ctypes.c_uint64),
        ("ullAvailPageFile", ctypes.c_uint64),
        ("ullTotalVirtual", ctypes.c_uint64),
        ("ullAvailVirtual", ctypes.c_uint64),
        ("ullAvailExtendedVirtual", ctypes.c_uint64),
    )


def _windows_memory() -> int | None:
    status = _MemoryStatus(dwLength=ctypes.sizeof(_MemoryStatus))
    kernel: object = getattr(getattr(ctypes, "windll", None), "kernel32", None)
    ask = getattr(kernel, "GlobalMemoryStatusEx", None)
    return int(status.ullAvailPhys) if ask is not None and ask(ctypes.byref(status)) else None
