"""What this room needs before any of it can be imported: torch and triton, and a folder for compiled kernels.

Like `placement`, it needs neither of them itself.
"""

import atexit
import importlib.metadata
import logging
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from stepahead.errors import ConfigError

log = logging.getLogger("stepahead")

LIBRARIES = ("torch", "triton")
FOLDER_VARIABLE = "TRITON_CACHE_DIR"
INTERPRETER_VARIABLE = "TRITON_INTERPRET"
DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))
"""One of them is there where a GPU's driver is: Linux, Windows' Linux, AMD."""


def demand_libraries(cache: Path | None) -> None:
    """Raises ConfigError where they are missing. Compiled kernels are kept in `cache`, by Triton's version, unless the
    user has chosen a folder; None, or a folder that cannot be written to: as long as this process lives."""
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"device='cuda' needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            "pip install 'stepahead[cuda]', or give device='cpu'"
        )
    if FOLDER_VARIABLE not in os.environ:
        os.environ[FOLDER_VARIABLE] = str(_kernel_folder(cache))


def is_gpu_there() -> bool:
    """Whether an own choice may fall on a GPU: the libraries, its driver, and not the interpreter in its stead. torch
    is imported only where there are signs of all of them."""
    if any(find_spec(name) is None for name in LIBRARIES) or not any(path.exists() for path in DRIVERS):
        return False
    if is_interpreted():
        return False
    import torch  # noqa: PLC0415

    return bool(torch.cuda.is_available())


def is_interpreted() -> bool:
    """Whether kernels are run by Triton's interpreter, on the CPU."""
    return os.environ.get(INTERPRETER_VARIABLE, "0").lower() in ("1", "true", "on", "yes", "y")


def _kernel_folder(cache: Path | None) -> Path:
    if cache is not None:
        folder = cache / f"triton-{importlib.metadata.version('triton')}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.warning("%s: compiled kernels cannot be kept there, each start compiles them: %s", folder, error)
        else:
            if os.access(folder, os.W_OK):
                return folder
    folder = Path(tempfile.mkdtemp(prefix="stepahead-triton-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
