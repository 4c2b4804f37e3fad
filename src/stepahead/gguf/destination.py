"""Where a model file is to be written: whether there is room, what an earlier attempt left, and what a full disk says.

Must not know: what the file holds.
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stepahead.errors import CapacityError, ConfigError

HEADER_BYTES = 32 << 20
"""Room for metadata, more than a vocabulary takes."""


def check_room(path: Path, nbytes: int, way_out: str) -> None:
    """Raises ConfigError without the folder of `path`, CapacityError without room there for so many bytes."""
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: no such folder {path.parent}; create it first")
    needed, free = nbytes + HEADER_BYTES, shutil.disk_usage(path.parent).free
    if needed > free:
        raise CapacityError(
            f"{path}: takes {needed / 1e9:.1f} GB, but {path.parent} has {free / 1e9:.1f} GB free; {way_out}"
        )


def left_over(path: Path, has_shards: bool) -> tuple[Path, ...]:
    """Temporary files of this name, or of its shards: whoever wrote them was killed, or is still at it."""
    starts = (f".{path.name}.", *((f".{path.name.removesuffix('.gguf')}-0",) if has_shards else ()))
    return tuple(sorted(found for found in path.parent.glob(".*.tmp") if found.name.startswith(starts)))


@contextmanager
def explaining_the_disk(path: Path, if_too_large: str) -> Iterator[None]:
    """What goes wrong while `path` is written, as CapacityError or ConfigError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CapacityError(f"{path}: the disk filled up; nothing was left there: free some room") from None
        if error.errno == errno.EFBIG:
            raise CapacityError(f"{path}: too large a file for this disk; {if_too_large}") from None
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from None
