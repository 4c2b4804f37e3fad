"""Where repacked weights may be kept: beside the model, in the user's cache folder, or in a folder that was asked for.

Must not know: what the files hold.
"""

import hashlib
import os
import shutil
import sys
from pathlib import Path

from stepahead.errors import ConfigError
from stepahead.hub_folder import is_in_hub

AUTO, NEVER = "auto", "never"
SUFFIX = ".repacked"
MIN_FREE_BYTES = 1_000_000_000
"""Stays free on the disk: a full one is more trouble than slow weights."""


def check_choice(choice: str) -> None:
    """Raises ConfigError for a `repack` that is neither a word nor a folder."""
    if choice in (AUTO, NEVER) or Path(choice).is_dir():
        return
    what = "no folder" if Path(choice).exists() else "no such folder"
    raise ConfigError(f'repack={choice!r}: {what}; give "auto", "never" or a folder that exists')


def cache_paths(model: Path, choice: str, suffix: str = SUFFIX, target: Path | None = None) -> list[Path]:
    """The places of a model's repacked weights, the preferred one first; a folder may not exist yet.

    target: where the links of `model` led, if it is gone.
    """
    name = _unique_name(model, target or model.resolve()) + suffix
    if choice != AUTO:
        return [Path(choice) / name]
    beside, folder = model.with_name(model.name + suffix), user_folder()
    if folder is None:
        return [beside]
    # The hub's folder is other programs', too. What lies beside a model there already is used all the same.
    return [folder / name, beside] if is_in_hub(model.parent) else [beside, folder / name]


def user_folder() -> Path | None:
    """STEPAHEAD_CACHE, else where this system keeps such things; None without a home. Raises ConfigError for a file."""
    if named := os.environ.get("STEPAHEAD_CACHE"):
        folder = Path(named)
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"STEPAHEAD_CACHE={named!r} is no folder; give one, or the name of one to be made")
        return folder
    try:
        return _system_folder() / "stepahead"
    except RuntimeError:  # no home
        return None


def is_writable(folder: Path) -> bool:
    """Whether files can be made there; the user's own folder is made if need be."""
    if folder == user_folder():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return False
    return os.access(folder, os.W_OK | os.X_OK)


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _system_folder() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named) if Path(named).is_absolute() else Path.home() / ".cache"


def _unique_name(model: Path, target: Path) -> str:
    """Models of one name may come from several folders."""
    digest = hashlib.sha256(os.fsencode(target)).hexdigest()
    return f"{model.stem}-{digest[:12]}"
