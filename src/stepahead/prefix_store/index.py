"""Which records there are: by key, by what they continue, by when they were used last.

Plain memory, for one thread at a time. Must not know: files, threads, budgets.
"""

import time
from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from stepahead.prefix_store.record import Header, Record


@dataclass(slots=True, eq=False)
class Entry:
    """A record that is on disk, or waits to be."""

    header: Header
    is_first: bool  # of its chain
    nbytes: int = 0  # of its file; 0 while there is none
    last_used_ns: int = 0  # by the clock of files
    waiting: Record | None = None  # until it is written
    num_readers: int = 0  # that will want it


class Index:
    """Entries by key. What continues a record is known by its parent's key alone, so the parent may be missing."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.num_written = 0
        self.nbytes = 0  # of files
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()  # least recently used first
        self._children: dict[bytes, dict[bytes, Entry]] = {}
        self._now_ns = 0
        for entry in sorted(entries, key=lambda entry: entry.last_used_ns):
            self.add(entry)

    def get(self, key: bytes) -> Entry | None:
        return self._entries.get(key)

    def children(self, parent: bytes) -> Iterable[Entry]:
        return self._children.get(parent, {}).values()

    def add(self, entry: Entry) -> None:
        """A record that was not there, as the one used last."""
        assert entry.header.key not in self._entries
        self._entries[entry.header.key] = entry
        self._children.setdefault(entry.header.parent, {})[entry.header.key] = entry
        if entry.waiting is None:
            self._count(entry, 1)

    def written(self, entry: Entry, nbytes: int) -> None:
        """It waits no more."""
        entry.waiting, entry.nbytes = None, nbytes
        self._count(entry, 1)

    def remove(self, entry: Entry) -> None:
        del self._entries[entry.header.key]
        siblings = self._children[entry.header.parent]
        del siblings[entry.header.key]
        if not siblings:
            del self._children[entry.header.parent]
        if entry.waiting is None:
            self._count(entry, -1)

    def use(self, keys: Seq[bytes]) -> None:
        """These, parents first, and all that they continue are used now."""
        used = set()
        for key in reversed(keys):
            entry = self._entries.get(key)
            # Upwards, so that a record never seems older than those that are of no use without it, and the oldest of
            # all is a leaf.
            while entry is not None and entry.header.key not in used:
                used.add(entry.header.key)
                self._entries.move_to_end(entry.header.key)
                self._now_ns = entry.last_used_ns = max(self._now_ns + 1, time.time_ns())
                entry = self._entries.get(entry.header.parent)

    def with_descendants(self, entry: Entry) -> list[Entry]:
        """It, and all that continues it."""
        found = [entry]
        for parent in found:  # which grows
            found.extend(self.children(parent.header.key))
        return found

    def orphans(self) -> list[Entry]:
        """Those whose chain is broken: what they continue, or what that continues, is missing."""
        tops = [
            entry for entry in self._entries.values() if not entry.is_first and entry.header.parent not in self._entries
        ]
        return [entry for top in tops for entry in self.with_descendants(top)]

    def oldest_leaf(self) -> Entry | None:
        """The least recently used record that nothing continues, and nobody reads or writes."""
        for key, entry in self._entries.items():
            if key not in self._children and not entry.num_readers and entry.waiting is None:
                return entry
        return None

    def _count(self, entry: Entry, sign: int) -> None:
        self.num_written += sign
        self.nbytes += sign * entry.nbytes
