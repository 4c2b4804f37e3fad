"""Records that were computed by other models, or in other ways: the first to go when room is short.

Those that another process has open count, and stay. Must not know: threads, the records of this process.
"""

import os
import re
import stat
import time
from pathlib import Path

from stepahead.prefix_store import lock
from stepahead.prefix_store.identity_folder import IdentityFolder

NAME = re.compile(r"[0-9a-f]{32}")
MEASURE_SECONDS = 10.0
"""Other processes write too, but looking at ten thousand files takes a while."""


class OtherFolders:
    """All folders of identities in `folder` but that named `own`."""

    def __init__(self, folder: Path, own: str) -> None:
        self._folder = folder
        self._own = own
        self._nbytes = 0
        self._measured_at = float("-inf")
        self._can_drop = True

    def nbytes(self) -> int:
        """Of their files, as of a few seconds ago."""
        if time.monotonic() - self._measured_at > MEASURE_SECONDS:
            self._nbytes = sum(_nbytes(path) for path in self._paths())
            self._measured_at = time.monotonic()
            self._can_drop = self._nbytes > 0
        return self._nbytes

    def drop(self, nbytes: int) -> int:
        """Drop this much, the least recently used first, or what there is; how many records that were."""
        if not self._can_drop:
            return 0
        opened = []
        for path in self._paths():
            try:
                opened.append(IdentityFolder.open(path))
            except OSError:  # another process has it
                continue
        try:
            num_dropped = _drop(opened, nbytes)
        finally:
            for other in opened:
                other.close()
        self._can_drop = num_dropped > 0
        if num_dropped:
            self._measured_at = float("-inf")
        return num_dropped

    def _paths(self) -> list[Path]:
        """Only what a store made: the folder that was named to us may hold anything."""
        try:
            paths = list(self._folder.iterdir())
        except OSError:
            return []
        named = [path for path in paths if NAME.fullmatch(path.name) and path.name != self._own]
        return [path for path in named if _is_regular(path / lock.NAME)]


def _drop(opened: list[IdentityFolder], nbytes: int) -> int:
    num_dropped = 0
    while nbytes > 0:
        leaves = [(leaf, other) for other in opened if (leaf := other.index.oldest_leaf()) is not None]
        if not leaves:
            break
        leaf, other = min(leaves, key=lambda each: each[0].last_used_ns)
        other.index.remove(leaf)
        other.delete((leaf,))
        nbytes -= leaf.nbytes
        num_dropped += 1
    return num_dropped


def _nbytes(folder: Path) -> int:
    total = 0
    try:
        with os.scandir(folder) as files:
            for file in files:
                total += file.stat(follow_symlinks=False).st_size
    except OSError:  # it is being changed, or is gone
        pass
    return total


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False
