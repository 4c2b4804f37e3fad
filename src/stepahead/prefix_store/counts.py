"""What a store has and what it has done, for metrics."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """Of records. All but the first two only grow."""

    records: int  # whole on disk
    nbytes: int  # of their files
    num_written: int
    num_read: int
    num_dropped_damaged: int  # with those that continue them
    num_evicted: int  # to keep the budget, those of other identities included
    num_failed_writes: int  # the disk did not take them
    num_refused_writes: int  # too much was waiting already, or nothing could make room
