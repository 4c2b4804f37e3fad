"""The header of a file of which only the first bytes are at hand, as when it lies on a server.

Owns the question whether there are enough of them. Must not know: where they come from.
"""

import struct
from pathlib import Path

from stepahead.errors import ModelFormatError
from stepahead.gguf.cursor import Cursor
from stepahead.gguf.header import MAGIC, Header, read_header


def read_prefix(prefix: bytes, nbytes: int, path: Path, shard: int = 0) -> Header | None:
    """The header of a file of `nbytes` that begins with `prefix`; None if it goes on after the prefix.

    Raises what read_header raises. A damaged header is known as such only once all of the file is there: until then
    a fault may come of what is missing.
    """
    cursor = Cursor(prefix, path)
    cursor.size = nbytes  # counts and places are checked against the whole file
    try:
        header = read_header(cursor, shard)
    except (ModelFormatError, struct.error, ValueError):
        if len(prefix) < nbytes and prefix.startswith(MAGIC[: len(prefix)]):
            return None
        raise
    return header if header.nbytes <= len(prefix) else None
