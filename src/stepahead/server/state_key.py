"""The key that signs reasoning (server/reasoning_state.py): kept in the user's cache folder, to outlive a server."""

import os
import secrets
import tempfile
from pathlib import Path

from stepahead.repack.folders import is_writable, user_folder

_NAME = "reasoning.key"
_NUM_BYTES = 32


def kept_key() -> bytes:
    """The key of this user, made on first use. Where none can be kept: one for this time alone."""
    folder = user_folder()
    if folder is None or not is_writable(folder):
        return secrets.token_bytes(_NUM_BYTES)
    return _read(folder / _NAME) or _made(folder / _NAME)


def _read(path: Path) -> bytes | None:
    try:
        key = path.read_bytes()
    except OSError:
        return None
    return key if len(key) == _NUM_BYTES else None


def _made(path: Path) -> bytes:
    """Written aside and renamed, readable by its owner alone; of two servers that start at once, one wins."""
    key = secrets.token_bytes(_NUM_BYTES)
    try:
        descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=_NAME)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
        Path(aside).replace(path)
    except OSError:
        return key
    return _read(path) or key
