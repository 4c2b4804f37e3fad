"""PrefixStore: the records of one folder, written and read by a thread of its own.

Owns the folder, its budget, and what is dropped from it. One thread calls its methods, and none of them waits for a
disk but `open` and `close`. Nothing that goes wrong with the disk later is an exception: a record that cannot be read
is gone, and a disk that cannot be written to is written to no more.
"""

import hashlib
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence as Seq
from dataclasses import replace
from pathlib import Path

import numpy as np

from stepahead.errors import ConfigError
from stepahead.prefix_store.counts import StoreCounts
from stepahead.prefix_store.identity_folder import IdentityFolder
from stepahead.prefix_store.index import Entry
from stepahead.prefix_store.other_folders import OtherFolders
from stepahead.prefix_store.reading import Reading
from stepahead.prefix_store.record import Header, Record, record_key
from stepahead.prefix_store.record_file import DamagedError

__all__ = ["CLOSE_SECONDS", "MAX_WAITING_NBYTES", "PrefixStore", "Reading"]

log = logging.getLogger(__name__)

MAX_WAITING_NBYTES = 512 << 20
"""Of arrays that wait to be written, and take memory until then. One call may bring more when nothing waits."""
CLOSE_SECONDS = 20.0
"""For writing what waits; what is not begun by then is not written."""
LOCK_SECONDS = 2.0
"""Another process may hold the lock for as long as it takes to make room."""
ROOM_SHARE = 16
"""A part this large of the budget is freed at once among the records of others: to look at them takes a while."""


class PrefixStore:
    """Records by key."""

    def __init__(self, folder: IdentityFolder, others: OtherFolders, max_nbytes: int) -> None:
        self._folder = folder
        self._others = others
        self._max_nbytes = max_nbytes
        # Guards all that follows, and the index. Held for memory only, never for the disk.
        self._changed = threading.Condition()
        self._index = folder.index
        self._counter: Counter[str] = Counter(num_dropped_damaged=folder.num_damaged)
        self._readings: deque[Reading] = deque()
        self._writes: deque[Entry] = deque()
        self._waiting_nbytes = 0
        self._can_write = True
        self._closes_at: float | None = None
        self._has_warned = False
        self._thread = threading.Thread(target=self._work, name="prefix-store", daemon=True)

    @classmethod
    def open(cls, folder: Path, identity: str, max_nbytes: int) -> "PrefixStore":
        """The records of `folder` that were computed by `identity`; others go first when room is short.

        Raises ConfigError for a folder that cannot be used, or that another process uses.
        """
        if max_nbytes <= 0:
            raise ConfigError(f"the prefix cache on disk may take {max_nbytes} bytes; give it at least 1")
        digest = hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            own = IdentityFolder.open(folder / digest, LOCK_SECONDS)
        except BlockingIOError:
            raise ConfigError(
                f"{folder}: another process keeps prefixes of this model there; stop it, or give another folder"
            ) from None
        except FileExistsError:
            raise ConfigError(f"{folder}: is no folder; give one for the prefix cache, or a name to be made") from None
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            what = getattr(error, "strerror", None) or str(error)
            raise ConfigError(f"{folder}: cannot keep prefixes there: {what}; give another folder") from None
        if own.num_damaged:
            log.warning("prefix cache on disk: %d damaged records were removed", own.num_damaged)
        store = cls(own, OtherFolders(folder, digest), max_nbytes)
        store._make_room(0)
        store._thread.start()
        return store

    @property
    def counts(self) -> StoreCounts:
        """For any thread."""
        with self._changed:
            counted = self._counter
            return StoreCounts(
                records=self._index.num_written,
                nbytes=self._index.nbytes,
                num_written=counted["num_written"],
                num_read=counted["num_read"],
                num_dropped_damaged=counted["num_dropped_damaged"],
                num_evicted=counted["num_evicted"],
                num_failed_writes=counted["num_failed_writes"],
                num_refused_writes=counted["num_refused_writes"],
            )

    # --- for the thread that owns the store ---
    def header(self, key: bytes) -> Header | None:
        """Of a record that is on disk, or waits to be."""
        with self._changed:
            entry = self._index.get(key)
            return None if entry is None else entry.header

    def snapshots(self, parent: bytes) -> Seq[Header]:
        """The snapshots whose parent this is."""
        with self._changed:
            return [entry.header for entry in self._index.children(parent) if entry.header.kind == "snapshot"]

    def read(self, keys: Seq[bytes]) -> Reading:
        """Begin to read records, which count as used now; until it is done they are not dropped."""
        with self._changed:
            entries = tuple(entry for key in keys if (entry := self._index.get(key)) is not None)
            reading = Reading(entries)
            if len(entries) < len(keys) or self._closes_at is not None:
                reading.finish(None)
                return reading
            self._index.use(keys)
            for entry in entries:
                entry.num_readers += 1
            self._readings.append(reading)
            self._changed.notify_all()
            return reading

    def write(self, records: Seq[Record]) -> bool:
        """Have records written behind, parents first; their arrays must not change meanwhile. Those that are there
        already are not written again.

        False: none of them will be, for too much is waiting already or the disk has failed.
        """
        with self._changed:
            new = {record.header.key: record for record in records if self._index.get(record.header.key) is None}
            nbytes = sum(map(_nbytes, new.values()))
            is_full = self._waiting_nbytes > 0 and self._waiting_nbytes + nbytes > MAX_WAITING_NBYTES
            if not self._can_write or self._closes_at is not None or is_full:
                self._counter["num_refused_writes"] += len(new)
                return False
            for record in new.values():
                is_first = self._index.get(record.header.parent) is None
                entry = Entry(_own_header(record), is_first, waiting=record)
                self._index.add(entry)
                self._writes.append(entry)
            self._index.use([record.header.key for record in records])
            self._waiting_nbytes += nbytes
            self._changed.notify_all()
            return True

    def close(self) -> None:
        """Write what waits, for CLOSE_SECONDS at most, and leave the folder to others."""
        with self._changed:
            is_first_call = self._closes_at is None
            self._closes_at = time.monotonic() + CLOSE_SECONDS
            self._changed.notify_all()
        if not is_first_call:
            return
        # The record that is being written when the time is over is finished.
        self._thread.join(2 * CLOSE_SECONDS)
        if self._thread.is_alive():
            log.warning(
                "prefix cache on disk: the disk does not answer; the folder stays locked until this process ends"
            )
            return
        self._folder.close()

    # --- the store's own thread ---
    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            if isinstance(job, Reading):
                self._do_read(job)
            else:
                self._do_write(job)

    def _next_job(self) -> Reading | Entry | None:
        """Readings first: somebody waits for them."""
        with self._changed:
            while not self._readings and not self._writes and self._closes_at is None:
                self._changed.wait()
            if self._closes_at is not None:
                while self._readings:
                    self._readings.popleft().finish(None)
                if time.monotonic() > self._closes_at:
                    return None
            if self._readings:
                return self._readings.popleft()
            return self._writes.popleft() if self._writes else None

    def _do_read(self, reading: Reading) -> None:
        records = self._read_all(reading.entries)
        with self._changed:
            for entry in reading.entries:
                entry.num_readers -= 1
            self._counter["num_read"] += len(records or ())
        reading.finish(records)
        if records is not None:
            self._mark_used(reading.entries)

    def _read_all(self, entries: Seq[Entry]) -> tuple[Record, ...] | None:
        records = []
        for entry in entries:
            try:
                records.append(self._read(entry))
            except DamagedError:
                self._drop_damaged(entry)
                return None
            except Exception:  # nobody may wait for ever for a thread that has died
                log.exception("prefix cache on disk: a record could not be read")
                self._drop_damaged(entry)
                return None
        return tuple(records)

    def _mark_used(self, entries: Seq[Entry]) -> None:
        for entry in entries:
            if entry.waiting is None:
                self._folder.mark_used(entry)

    def _read(self, entry: Entry) -> Record:
        if entry.waiting is None:
            return self._folder.read(entry)
        # Copied, for the caller promises that its arrays stay as they are only until they are written.
        return Record(entry.header, {name: array.copy() for name, array in entry.waiting.arrays.items()})

    def _do_write(self, entry: Entry) -> None:
        assert entry.waiting is not None
        waiting_nbytes = _nbytes(entry.waiting)
        try:
            self._write(entry)
        except OSError as error:
            self._stop_writing(entry, error)
        except Exception:
            log.exception("prefix cache on disk: a record could not be written")
            self._drop(entry, "num_failed_writes")
        with self._changed:
            self._waiting_nbytes -= waiting_nbytes

    def _write(self, entry: Entry) -> None:
        with self._changed:
            if self._index.get(entry.header.key) is not entry:  # dropped, with what it continues
                return
        if not self._can_write:
            self._drop(entry, "num_failed_writes")
            return
        parts = self._folder.encode(entry)
        nbytes = sum(part.nbytes for part in parts)
        if not self._make_room(nbytes):
            self._drop(entry, "num_refused_writes")
            return
        self._folder.write(entry, parts)
        with self._changed:
            self._index.written(entry, nbytes)
            self._counter["num_written"] += 1

    def _make_room(self, nbytes: int) -> bool:
        """For so many bytes more; True if there is."""
        if nbytes > self._max_nbytes:
            return False
        if (excess := self._excess(nbytes)) > 0 and self._others.nbytes() > 0:
            self._counter["num_evicted"] += self._others.drop(max(excess, self._max_nbytes // ROOM_SHARE))
            excess = self._excess(nbytes)
        while excess > 0:
            with self._changed:
                leaf = self._index.oldest_leaf()
                if leaf is None:
                    return False
                self._index.remove(leaf)
                self._counter["num_evicted"] += 1
            self._folder.delete((leaf,))
            excess -= leaf.nbytes
        return True

    def _excess(self, nbytes: int) -> int:
        return self._index.nbytes + self._others.nbytes() + nbytes - self._max_nbytes

    def _drop_damaged(self, entry: Entry) -> None:
        num_dropped = self._drop(entry, "num_dropped_damaged")
        if num_dropped and not self._has_warned:  # metrics count them; a log full of them tells no more
            self._has_warned = True
            log.warning("prefix cache on disk: a damaged record was dropped, and %d that need it", num_dropped - 1)

    def _stop_writing(self, entry: Entry, error: OSError) -> None:
        """What is on disk can still be read."""
        with self._changed:
            self._can_write = False
        self._drop(entry, "num_failed_writes")
        log.warning(
            "prefix cache on disk: %s cannot be written to: %s; it is read on, and written to no more",
            self._folder.path.parent,
            error.strerror or error,
        )

    def _drop(self, entry: Entry, counted_as: str) -> int:
        """Forget a record and all that continues it; how many that were."""
        with self._changed:
            if self._index.get(entry.header.key) is not entry:
                return 0
            dropped = self._index.with_descendants(entry)
            for each in dropped:
                self._index.remove(each)
            self._counter[counted_as] += len(dropped)
        self._folder.delete(dropped)
        return len(dropped)


def _own_header(record: Record) -> Header:
    """Of a new record, with what the store relies on made sure of."""
    header = record.header
    assert header.key == record_key(header.parent, header.kind, header.token_ids)
    assert all(array.dtype == np.uint8 and array.ndim == 1 for array in record.arrays.values())
    numbers = {name: tuple(int(value) for value in values) for name, values in header.numbers.items()}
    return replace(header, token_ids=np.array(header.token_ids, np.int32), numbers=numbers, nbytes=_nbytes(record))


def _nbytes(record: Record) -> int:
    return sum(array.nbytes for array in record.arrays.values())
