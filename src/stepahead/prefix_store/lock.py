"""A lock on a folder: one process has it, and it goes with the process, however that ends."""

import os
import stat
import sys
import time
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

NAME = "lock"
_RETRY_SECONDS = 0.05


class FolderLock:
    """Held from `acquire` to `release`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, folder: Path, timeout_s: float = 0.0) -> "FolderLock":
        """Raises BlockingIOError if it is held elsewhere for all that time, OSError if there can be no lock."""
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(folder / NAME, flags, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(f"{NAME} is no regular file")
            _wait_for(descriptor, time.monotonic() + timeout_s)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        # Closing is what lets go. The file stays: who removed it could take it from under another's lock.
        os.close(self._descriptor)


def _wait_for(descriptor: int, deadline: float) -> None:
    while True:
        try:
            return _lock(descriptor)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY_SECONDS)


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError(error.errno, error.strerror) from None
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
