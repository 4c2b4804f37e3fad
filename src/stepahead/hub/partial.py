"""A file that is being downloaded: its bytes so far, and beside it a journal of which of them are there.

The journal follows the data, so a process may be killed between any two writes. What a power cut makes of the two is
found by the checksum at the end. Must not know: where bytes come from.
"""

import hashlib
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from stepahead.errors import DownloadError
from stepahead.hub.remote_file import RemoteFile

SEGMENT = 64 << 20
"""Bytes that one request asks for: small enough to share a file among several, large enough to be rare."""
ENDING = ".incomplete"  # as the hub's library ends such names: its tools show and remove them
_MAGIC = b"stepahead-part-1"
_HEAD = struct.Struct("<16s64sQQ")
_COUNT = struct.Struct("<Q")
_HASH_CHUNK = 8 << 20


class Partial:
    """A context manager. `path` becomes the file: `<path>` holds the data, `<path>` with another ending the journal.

    Segments may be written by several threads, each of them by one.
    """

    def __init__(self, path: Path, file: RemoteFile, segment: int | None = None) -> None:
        self.path, self.file = path, file
        self.segment = segment or SEGMENT
        self.journal = journal_of(path)
        self._lock = threading.Lock()
        self._data = _open(path)
        self._journal = _open(self.journal)
        self._counts = self._read_journal()

    @property
    def num_segments(self) -> int:
        return len(self._counts)

    @property
    def nbytes_here(self) -> int:
        return sum(self._counts)

    def missing(self, index: int) -> tuple[int, int]:
        """[start, stop) of what segment `index` lacks; equal once it is complete."""
        start = index * self.segment
        return start + self._counts[index], min(start + self.segment, self.file.nbytes)

    def write(self, index: int, data: bytes) -> None:
        """The next bytes of a segment."""
        with self._lock:
            self._data.seek(self.missing(index)[0])
            _write_all(self._data, data)
            self._counts[index] += len(data)
            self._journal.seek(_HEAD.size + index * _COUNT.size)
            _write_all(self._journal, _COUNT.pack(self._counts[index]))

    def digest(self, on_bytes: Callable[[int], None]) -> str:
        """Of the whole file, of the kind that the listing has."""
        hasher = hashlib.sha256() if self.file.is_sha256 else git_hasher(self.file.nbytes)
        self._data.seek(0)
        while chunk := self._data.read(_HASH_CHUNK):
            hasher.update(chunk)
            on_bytes(len(chunk))
        return hasher.hexdigest()

    def finish(self, target: Path) -> None:
        """The verified file takes its name, and the journal goes."""
        self._data.truncate(self.file.nbytes)
        os.fsync(self._data.fileno())
        self.close()
        self.path.replace(target)
        self.journal.unlink(missing_ok=True)

    def discard(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)
        self.journal.unlink(missing_ok=True)

    def close(self) -> None:
        self._data.close()
        self._journal.close()

    def __enter__(self) -> "Partial":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_journal(self) -> list[int]:
        """What an earlier process left, if it is of the same file and can be; else a new one."""
        count = -(-self.file.nbytes // self.segment)
        head = _HEAD.pack(_MAGIC, self.file.digest.encode(), self.file.nbytes, self.segment)
        self._journal.seek(0)
        found = self._journal.read()
        if found[: _HEAD.size] == head and len(found) == _HEAD.size + count * _COUNT.size:
            counts = [value for (value,) in _COUNT.iter_unpack(found[_HEAD.size :])]
            if self._is_possible(counts):
                return counts
        self._journal.truncate(0)
        self._data.truncate(0)
        self._journal.seek(0)
        _write_all(self._journal, head + bytes(count * _COUNT.size))
        return [0] * count

    def _is_possible(self, counts: list[int]) -> bool:
        nbytes = self._data.seek(0, os.SEEK_END)
        ends = [index * self.segment + value for index, value in enumerate(counts) if value]
        fits = all(value <= min(self.segment, self.file.nbytes - i * self.segment) for i, value in enumerate(counts))
        return fits and max(ends, default=0) <= nbytes


def journal_of(path: Path) -> Path:
    return path.with_name(f"{path.name.removesuffix(ENDING)}.journal{ENDING}")


def nbytes_here(path: Path, file: RemoteFile) -> int:
    """Of an interrupted download; 0 if there is none. Nothing is made."""
    try:
        return min(path.stat().st_blocks * 512, file.nbytes) if journal_of(path).exists() else 0
    except (OSError, AttributeError):  # Windows counts no blocks
        return 0


def git_hasher(nbytes: int) -> "hashlib._Hash":
    """Of a file that git keeps itself: it hashes a word and the size first."""
    hasher = hashlib.sha1(usedforsecurity=False)
    hasher.update(b"blob %d\0" % nbytes)
    return hasher


def digest_of(path: Path, file: RemoteFile, on_bytes: Callable[[int], None]) -> str:
    """Of a file here, of the kind that `file` has."""
    hasher = hashlib.sha256() if file.is_sha256 else git_hasher(file.nbytes)
    with path.open("rb", buffering=0) as data:
        while chunk := data.read(_HASH_CHUNK):
            hasher.update(chunk)
            on_bytes(len(chunk))
    return hasher.hexdigest()


def wrong_bytes(file: RemoteFile, found: str) -> DownloadError:
    return DownloadError(
        f"{file.repo}: {file.path} came with checksum {found[:16]}… instead of {file.digest[:16]}…: it was removed; "
        "run the same command again, and if that fails, too, the server or what lies between changes files"
    )


def _open(path: Path) -> BinaryIO:
    """For reading and writing, made if need be, never followed if somebody put a link there."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(path, flags, 0o644), "r+b", buffering=0)


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
