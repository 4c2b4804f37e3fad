"""Where the hub's programs keep their files: a folder that is shared, in which nothing is written but what was pulled.

Needs no library: it is asked whenever a model is opened or written.
"""

import os
import re
from pathlib import Path

from stepahead.errors import ConfigError

_CACHED = re.compile(r"(?:^|/)models--[^/]+/(?:snapshots|blobs)(?:/|$)")


def hub_folder() -> Path:
    """HF_HUB_CACHE, HF_HOME or the default, read as the hub's library reads them."""
    caches = os.environ.get("XDG_CACHE_HOME") or str(Path("~", ".cache"))
    home = os.environ.get("HF_HOME") or str(Path(caches, "huggingface"))
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or str(Path(home, "hub"))
    return Path(_expanded(named)).resolve()


def is_in_hub(folder: Path) -> bool:
    """By the folder's place, or by its layout: the cache may have been elsewhere when a model was pulled."""
    found = folder.resolve()
    return found.is_relative_to(hub_folder()) or _CACHED.search(found.as_posix()) is not None


def blob_of(pointer: Path, digest: str) -> Path | None:
    """What an entry of a snapshot links to, whether it is there or not; None: it is no such entry."""
    snapshots = next((parent for parent in pointer.parents if parent.name == "snapshots"), None)
    return None if snapshots is None else snapshots.with_name("blobs") / digest


def check_output(output: Path, *inputs: Path | None) -> None:
    """Raises ConfigError for a file, or a folder for one, that is one of the inputs or lies in the hub's cache."""
    if _is_there(output) and any(path is not None and path.exists() and output.samefile(path) for path in inputs):
        raise ConfigError(f"{output}: is one of the files that are read; give the new file another name")
    if is_in_hub(output if _is_there(output) and output.is_dir() else output.parent):
        raise ConfigError(f"{output}: lies in the hub's cache, which other programs keep; give a folder of your own")


def _is_there(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 (pathlib raises for a name that is too long)


def _expanded(path: str) -> str:
    return os.path.expandvars(os.path.expanduser(path))  # noqa: PTH111 (pathlib raises without a home)
