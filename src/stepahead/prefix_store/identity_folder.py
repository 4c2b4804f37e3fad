"""The folder of one identity's records, which belongs to one process while it is open.

Owns names, the lock and what is removed at open: files that are no records, and those a killed process never finished.
Must not know: threads, budgets.
"""

import os
import re
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from stepahead.folder_sync import sync_folder
from stepahead.prefix_store.index import Entry, Index
from stepahead.prefix_store.lock import FolderLock
from stepahead.prefix_store.record import Record
from stepahead.prefix_store.record_file import DamagedError, encode, read_head, read_record, write_parts

_RECORD_NAME = re.compile(r"([0-9a-f]{32})\.record")
_CLOCKS_DIFFER_NS = 3600 * 10**9
"""A record used later than this from now was not: nothing may stay for ever because a clock was wrong once."""
_TEMPORARY_NAME = re.compile(r"\.[0-9a-f]{32}\.tmp")


class IdentityFolder:
    """Records as files. Only `index` may be touched by another thread than the one that calls."""

    def __init__(self, path: Path, lock: FolderLock) -> None:
        self.path = path
        self._lock = lock
        self.num_damaged = 0
        self.index = self._load()

    @classmethod
    def open(cls, path: Path, timeout_s: float = 0.0) -> "IdentityFolder":
        """Raises BlockingIOError if another process has it, OSError if it cannot be used."""
        path.mkdir(mode=0o700, exist_ok=True)
        _demand_own(path)
        path.chmod(0o700)
        lock = FolderLock.acquire(path, timeout_s)
        try:
            return cls(path, lock)
        except BaseException:
            lock.release()
            raise

    def close(self) -> None:
        self._lock.release()

    def encode(self, entry: Entry) -> list[memoryview]:
        assert entry.waiting is not None
        return encode(entry.waiting, entry.is_first, self.path.name)

    def write(self, entry: Entry, parts: list[memoryview]) -> None:
        """Under its name complete or not at all. Raises OSError, and leaves nothing behind."""
        path = self._path(entry)
        temporary = path.with_name(f".{path.stem}.tmp")
        try:
            write_parts(temporary, parts)
            temporary.replace(path)
        except BaseException:
            _delete(temporary)
            raise
        sync_folder(self.path)

    def read(self, entry: Entry) -> Record:
        """Raises DamagedError for a file that is not what it was."""
        record = read_record(self._path(entry), self.path.name)
        if record.header.key != entry.header.key or record.header.numbers != entry.header.numbers:
            raise DamagedError("it is another record")
        return record

    def mark_used(self, entry: Entry) -> None:
        """For the next process."""
        with suppress(OSError):  # it is but an order
            os.utime(self._path(entry), ns=(entry.last_used_ns, entry.last_used_ns))

    def delete(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            _delete(self._path(entry))

    def _path(self, entry: Entry) -> Path:
        return self.path / f"{entry.header.key.hex()}.record"

    def _load(self) -> Index:
        """By the files' heads; the arrays are checked when they are read."""
        entries = []
        now_ns = time.time_ns()
        with os.scandir(self.path) as files:
            for file in files:
                if _TEMPORARY_NAME.fullmatch(file.name):
                    _delete(Path(file.path))
                elif match := _RECORD_NAME.fullmatch(file.name):
                    try:
                        entry = self._entry(file, bytes.fromhex(match[1]))
                    except DamagedError:
                        self.num_damaged += 1
                        _delete(Path(file.path))
                    else:
                        if entry.last_used_ns > now_ns + _CLOCKS_DIFFER_NS:
                            entry.last_used_ns = 0
                        entries.append(entry)
        index = Index(entries)
        orphans = index.orphans()
        for entry in orphans:
            index.remove(entry)
        self.delete(orphans)
        self.num_damaged += len(orphans)
        return index

    def _entry(self, file: "os.DirEntry[str]", key: bytes) -> Entry:
        head, size = read_head(Path(file.path), self.path.name)
        if head.header.key != key:
            raise DamagedError("its name is another's")
        return Entry(head.header, head.is_first, size, Path(file.path).lstat().st_mtime_ns)


def _demand_own(path: Path) -> None:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(f"{path.name} is no folder")
    if hasattr(os, "getuid") and status.st_uid != os.getuid():
        # Whoever owns it could put a text's continuation there that no model computed.
        raise PermissionError(f"{path.name} belongs to another user")


def _delete(path: Path) -> None:
    with suppress(OSError):  # a folder of that name, or somebody was faster; it is not in the index
        path.unlink()
