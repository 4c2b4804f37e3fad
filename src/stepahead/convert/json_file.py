"""JSON files of a checkpoint: read whole, with an upper size, and wrong ones refused in one line."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from stepahead.errors import ConfigError, ModelFormatError


def read_object(path: Path, max_bytes: int) -> dict[str, Any]:
    """The object in the file. ConfigError: it cannot be read; ModelFormatError: it is something else."""
    raw = read_bytes(path, max_bytes)
    return parse_object(raw, str(path))


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """All bytes of a file of at most max_bytes."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # asked before opening: a FIFO would wait for a writer
            raise ConfigError(f"{path}: is not a regular file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > max_bytes:
                raise ModelFormatError(f"{path}: has {size} bytes; a file of this name has at most {max_bytes}")
            return file.read(max_bytes + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; download the whole repository, or the files that are named") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None


def parse_object(raw: bytes, what: str) -> dict[str, Any]:
    """The object that `raw` is; `what` is named in errors."""
    try:
        found = json.loads(raw)
    except RecursionError:
        raise ModelFormatError(f"{what}: is nested too deeply to be of a checkpoint") from None
    except ValueError as error:  # also bytes that are no UTF-8, and numbers of thousands of digits
        raise ModelFormatError(f"{what}: is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ModelFormatError(f"{what}: holds a {type(found).__name__}, expected an object")
    return found
