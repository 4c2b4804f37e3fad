"""Reading: records on their way from disk."""

import threading

from stepahead.prefix_store.index import Entry
from stepahead.prefix_store.record import Record


class Reading:
    """Records on their way from disk. `is_done` may be asked at any time, by any thread."""

    def __init__(self, entries: tuple[Entry, ...] = ()) -> None:
        self.entries = entries  # the store's business
        self.records: tuple[Record, ...] | None = None
        """Once done: in the order asked for. None: one of them was damaged, and is gone."""
        self._done = threading.Event()

    @property
    def is_done(self) -> bool:
        return self._done.is_set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until it is done, or so long; whether it is."""
        return self._done.wait(timeout_s)

    def finish(self, records: tuple[Record, ...] | None) -> None:
        """For the store: records first, so that who sees is_done sees them."""
        self.records = records
        self._done.set()
