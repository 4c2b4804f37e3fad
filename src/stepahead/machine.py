"""What this computer is: facts that a measured figure is nothing without. Must not know: models, backends."""

import platform
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


def major_faults() -> int:
    """How often this process has waited for the disk because memory was touched; 0 where nobody counts."""
    return 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_majflt
