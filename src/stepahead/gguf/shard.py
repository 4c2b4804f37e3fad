"""One file of a model, mapped: its bytes and its header; and how the files of a split model are named.

Owns opening, mapping and shard names. Must not know how shards make one model (`reader` does).
"""

import hashlib
import mmap
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stepahead.errors import ConfigError, ModelFormatError
from stepahead.gguf.block_quants import Bytes
from stepahead.gguf.cursor import Cursor
from stepahead.gguf.header import Header, read_header
from stepahead.mapped_files import note_mapped

_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells a file from its earlier and later versions. Whatever was made from it is stale once this changes."""

    nbytes: int
    mtime_ns: int
    header_hash: str  # SHA-256 of metadata and tensor infos


@dataclass(frozen=True, slots=True)
class Shard:
    """A mapped file. `data` is a read-only view of all its bytes and keeps the mapping alive."""

    path: Path
    header: Header
    data: Bytes
    mapping: mmap.mmap
    mtime_ns: int

    @classmethod
    def open(cls, path: Path, index: int = 0) -> "Shard":
        """Map the file and read its header. ConfigError: the path; ModelFormatError: the content."""
        try:
            _demand_regular(path)
            with path.open("rb") as file:
                size = file.seek(0, 2)
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else None
                mtime_ns = os.fstat(file.fileno()).st_mtime_ns
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file") from None
        except OSError as error:
            raise ConfigError(f"{path}: cannot be opened: {error.strerror or error}") from None
        if mapping is None:
            raise ModelFormatError(f"{path}: byte 0: the file is empty, not a GGUF file")
        note_mapped(mapping, path)
        header = read_header(Cursor(mapping, path), index)
        return cls(path, header, np.frombuffer(mapping, np.uint8), mapping, mtime_ns)

    def identity(self) -> FileIdentity:
        digest = hashlib.sha256(memoryview(self.mapping)[: self.header.nbytes])
        return FileIdentity(self.data.size, self.mtime_ns, digest.hexdigest())

    def release(self, start: int, stop: int) -> None:
        """Take the pages wholly within [start, stop) out of this process; they come back when touched."""
        page = mmap.PAGESIZE
        first, last = -(-start // page) * page, stop // page * page
        if first < last and hasattr(mmap, "MADV_DONTNEED"):
            self.mapping.madvise(mmap.MADV_DONTNEED, first, last - first)


def _demand_regular(path: Path) -> None:
    # Asked before opening: opening a FIFO waits for a writer, and a device may do anything.
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a NUL in the name
        raise ConfigError(f"{str(path)!r}: {error}") from None
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise ConfigError(f"{path}: is {kind}; give the path of a .gguf file")


def shard_path(prefix: str | Path, index: int, count: int) -> Path:
    """The name of shard `index` (0-based) of `count`: <prefix>-00001-of-00003.gguf is the first of three."""
    return Path(f"{prefix}-{index + 1:05d}-of-{count:05d}.gguf")


def parse_shard_path(path: Path) -> tuple[Path, int, int] | None:
    """(prefix, 0-based index, count) of a shard's name, None if it is not one."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    return path.with_name(match[1]), int(match[2]) - 1, int(match[3])
