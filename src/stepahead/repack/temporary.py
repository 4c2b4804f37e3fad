"""Files that appear under their name complete or not at all, and what became of those that never did.

A writer holds a lock on its temporary file. One that nobody holds was left by a process that died, and is removed.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from stepahead.folder_sync import sync_folder

try:
    import fcntl
except ImportError:  # Windows, which does not let go of files that are open
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replacing(path: Path, mode: int) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well, and vanishes when it does not."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            _lock(file)
            temporary.chmod(mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove_abandoned(path: Path) -> bool:
    """Remove temporaries of `path` that nobody writes any more; True: somebody is writing one now."""
    is_being_written = False
    for temporary in path.parent.glob(f".{_literally(path.name)}.????????.tmp"):
        try:
            with temporary.open("rb") as file:
                _lock(file)
            temporary.unlink()
        except FileNotFoundError:
            continue
        except OSError:
            is_being_written = True
    return is_being_written


def _lock(file: BinaryIO) -> None:
    """Raises OSError if another process holds it. The lock goes with the process, however it ends."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _literally(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
