"""PrefixStore: the records of one folder, written and read by a thread of its own.

Owns the folder, its budget, and what is dropped from it. One thread calls its methods, and none of them waits for a
disk but `open` and `close`.
"""

from collections.abc import Sequence as Seq
from pathlib import Path

from stepahead.prefix_store.record import Header, Record


class Reading:
    """Records on their way from disk. `is_done` may be asked at any time."""

    is_done: bool
    records: tuple[Record, ...] | None  # once done: in the order asked for; None: one of them was damaged, and is gone


class PrefixStore:
    """Records by key."""

    @classmethod
    def open(cls, folder: Path, identity: str, max_nbytes: int) -> "PrefixStore":
        """The records of `folder` that were computed by `identity`; others go first when room is short.

        Raises ConfigError for a folder that cannot be used, or that another process uses.
        """
        raise NotImplementedError

    def header(self, key: bytes) -> Header | None: ...

    def snapshots(self, parent: bytes) -> Seq[Header]:
        """The snapshots whose parent this is."""
        raise NotImplementedError

    def read(self, keys: Seq[bytes]) -> Reading:
        """Begin to read records, which count as used now; until it is done they are not dropped."""
        raise NotImplementedError

    def write(self, records: Seq[Record]) -> bool:
        """Have records written behind, parents first; their arrays must not change meanwhile.

        False: none of them will be, for too much is waiting already or the disk has failed.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Write what waits, and leave the folder to others."""
