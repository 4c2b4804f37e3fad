"""Bytes of one file that go into another as they are: shared between the two where the file system can, else copied.

Owns FileRange, can_share and copy_range. Must not know: what the bytes mean, where in a file they should go.
"""

import errno
import os
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stepahead.errors import ModelFormatError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BLOCK_BYTES = 4096
"""What Linux file systems share, they share in blocks of this size, or of a multiple that makes them decline."""
OnBytes = Callable[[int, bool], None]
"""Told of bytes that are written, as they are: how many, and whether they take no room."""

_CLONE_RANGE = 0x4020940D  # FICLONERANGE of linux/fs.h
_PIECE_BYTES = 64 << 20  # so that progress is seen and Ctrl-C is heard
_SHARED_PIECE_BYTES = 1 << 30
_BUFFER_BYTES = 4 << 20
# Of the disk, not of the way of copying: another way would fare no better.
_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@dataclass(frozen=True, slots=True)
class FileRange:
    """nbytes bytes of the file from `offset` on, as they were when its last change was at mtime_ns."""

    path: Path
    offset: int
    nbytes: int
    mtime_ns: int

    @property
    def stop(self) -> int:
        return self.offset + self.nbytes

    def until(self, stop: int) -> "FileRange":
        """From the same byte to another one."""
        return FileRange(self.path, self.offset, stop - self.offset, self.mtime_ns)


def can_share(path: Path, folder: Path) -> bool:
    """Whether a new file in `folder` can have blocks in common with the file at `path`. Asked by trying."""
    try:
        with path.open("rb") as source, tempfile.TemporaryFile(dir=folder) as target:
            return _share(source.fileno(), target.fileno(), 0, 0, BLOCK_BYTES)
    except OSError:
        return False


def shareable(source: FileRange, position: int) -> tuple[int, int]:
    """[start, stop) in the source of the whole blocks that a file can have in common with it at `position`."""
    start = source.offset + -source.offset % BLOCK_BYTES
    stop = source.stop - source.stop % BLOCK_BYTES
    if (position - source.offset) % BLOCK_BYTES or start >= stop:
        return source.stop, source.stop
    return start, stop


def copy_range(source: FileRange, target: BinaryIO, on_bytes: OnBytes | None = None) -> None:
    """Append the range to `target`, at whose end its position is. ModelFormatError: it is no longer what it was."""
    tell = on_bytes or (lambda _nbytes, _is_shared: None)
    target.flush()
    position, out = target.tell(), target.fileno()
    with source.path.open("rb", buffering=0) as file:
        _demand_unchanged(source, file)
        start, stop = shareable(source, position)
        shift = position - source.offset
        _copy(source.until(start), file, out, position, tell)
        shared = start
        while shared < stop:
            size = min(_SHARED_PIECE_BYTES, stop - shared)
            if not _share(file.fileno(), out, shared, shared + shift, size):
                break
            shared += size
            tell(size, True)
        rest = FileRange(source.path, shared, source.stop - shared, source.mtime_ns)
        _copy(rest, file, out, shared + shift, tell)
        _demand_unchanged(source, file)
    target.seek(position + source.nbytes)


def _share(source: int, target: int, offset: int, position: int, nbytes: int) -> bool:
    """False: this file system does not, or not here."""
    if fcntl is None or sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _CLONE_RANGE, struct.pack("qQQQ", source, offset, nbytes, position))
    except OSError as error:
        if error.errno in _FATAL:
            raise
        return False
    return True


def _copy(source: FileRange, file: BinaryIO, target: int, position: int, tell: OnBytes) -> None:
    """In the kernel where it can, which spares the bytes the way through this process."""
    offset, can_stay_in_kernel = source.offset, hasattr(os, "copy_file_range")
    while offset < source.stop:
        wanted, place = source.stop - offset, position + offset - source.offset
        copied = 0
        if can_stay_in_kernel:
            copied = _copy_in_kernel(file.fileno(), target, min(wanted, _PIECE_BYTES), offset, place)
            can_stay_in_kernel = copied > 0
        if copied == 0:
            copied = _copy_through(source, file, target, min(wanted, _BUFFER_BYTES), offset, place)
        offset += copied
        tell(copied, False)


def _copy_in_kernel(source: int, target: int, nbytes: int, offset: int, position: int) -> int:
    """How many bytes; 0 where it cannot: another file system, an old kernel, a strange one."""
    try:
        return os.copy_file_range(source, target, nbytes, offset, position)
    except OSError as error:
        if error.errno in _FATAL:
            raise
        return 0


def _copy_through(source: FileRange, file: BinaryIO, target: int, nbytes: int, offset: int, position: int) -> int:
    file.seek(offset)
    data = file.read(nbytes)
    if not data:
        raise ModelFormatError(f"{source.path}: ends at byte {offset} of {source.stop}: it was cut short meanwhile")
    os.lseek(target, position, os.SEEK_SET)
    written = 0
    while written < len(data):
        written += os.write(target, memoryview(data)[written:])
    return len(data)


def _demand_unchanged(source: FileRange, file: BinaryIO) -> None:
    """Of a file that changes while it is copied, the copy would be neither the old nor the new one."""
    if os.fstat(file.fileno()).st_mtime_ns != source.mtime_ns:
        raise ModelFormatError(f"{source.path}: was changed while it was in use; try again when nobody writes it")
