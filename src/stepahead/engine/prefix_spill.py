"""Prefixes that outlive the process: what is written behind of what is cached, and what is read before a prompt runs.

Owns which snapshots are worth a record, and who waits for which reading. A record that is damaged, does not fit or
finds no room costs nothing but its reading: the prompt is computed. Runs in the engine's thread and never waits for a
disk.
"""

import logging
import math
import time
from collections.abc import Callable, Generator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from stepahead.backends.base import Ints
from stepahead.engine.prefix_cache import PrefixCache
from stepahead.engine.prefix_records import PIECE_BLOCKS, PIECE_TOKENS, PrefixRecords, Text
from stepahead.engine.request import Request, Sequence
from stepahead.engine.runner import ModelRunner
from stepahead.engine.snapshot import Snapshot
from stepahead.prefix_store.counts import StoreCounts
from stepahead.prefix_store.record import Header, Record, record_key, root_key
from stepahead.prefix_store.store import PrefixStore, Reading

log = logging.getLogger("stepahead")

MIN_TOKENS = 256
"""Shorter texts are not written, and fewer tokens more than are cached are not read."""

MIN_DISTANCE = 2048
"""Tokens from one snapshot to the next that is written, but for those where texts are likely to go on."""

FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 60.0
"""After the store did not take what was copied for it nothing is copied for a second, then for twice as long."""

MAX_READINGS = 2
"""At once: what is read is held in memory until it is adopted."""


@dataclass(slots=True)
class SpillCounts:
    """Since the store was opened."""

    num_written: int = 0  # records
    nbytes_written: int = 0
    num_read: int = 0
    nbytes_read: int = 0
    num_damaged: int = 0  # readings that were given up
    num_unused: int = 0  # readings that did not fit, or found no room
    num_failed: int = 0  # snapshots that could not be written


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Records that a prompt could begin with."""

    num_tokens: int  # of the prompt
    text: Text  # up to the snapshot; behind num_tokens it is another's
    snapshot: Header


@dataclass(slots=True, eq=False)
class _Restore:
    """A reading, and who waits for it."""

    text: Text
    first_piece: int  # those before it are in memory
    reading: Reading
    waiting: set[int] = field(default_factory=set)  # by kv_id
    steps: Generator[None, None, bool] | None = None  # once it is read


class PrefixSpill:
    """The prefix cache's place on disk."""

    def __init__(
        self,
        store: PrefixStore,
        identity: str,
        runner: ModelRunner,
        cache: PrefixCache,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """clock: seconds."""
        self.counts = SpillCounts()
        self._clock = clock
        self._pause_s, self._saves_at = FIRST_PAUSE_S, -math.inf
        self._store = store
        self._identity = identity
        self._cache = cache
        self._records = PrefixRecords(runner)
        self._restores: dict[bytes, _Restore] = {}  # by the snapshot's key
        self._asked: dict[int, _Restore | None] = {}  # by kv_id of those who wait or have waited

    @classmethod
    def open(
        cls, folder: Path, max_nbytes: int, identity: str, runner: ModelRunner, cache: PrefixCache
    ) -> "PrefixSpill":
        """Raises ConfigError for a folder that cannot be used."""
        return cls(PrefixStore.open(folder, identity, max_nbytes), identity, runner, cache)

    @property
    def store_counts(self) -> StoreCounts:
        """For any thread."""
        return self._store.counts

    def close(self) -> None:
        """Write what waits, and leave the folder to others."""
        self._store.close()

    # --- writing ---
    def save(self, sequence: Sequence, snapshot: Snapshot) -> None:
        """Have a snapshot written that is about to be published, if it is worth it."""
        if not self._is_due(sequence, snapshot) or self._clock() < self._saves_at:
            return
        sequence.num_saved_tokens = snapshot.position
        try:
            records = self._new_records(sequence, snapshot)
            is_taken = not records or self._store.write(records)
        except Exception:  # nothing that a disk or a record does may end a request
            log.exception("a prefix of %d tokens could not be written", snapshot.position)
            records, is_taken = [], False
        if is_taken:
            self.counts.num_written += len(records)
            self.counts.nbytes_written += sum(record.header.nbytes for record in records)
            self._pause_s = FIRST_PAUSE_S
        else:
            self.counts.num_failed += 1
            self._saves_at = self._clock() + self._pause_s
            self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S)

    def _is_due(self, sequence: Sequence, snapshot: Snapshot) -> bool:
        """Where texts go on: the first message's end, the prompt's, the sequence's; and now and then on the way."""
        position, saved = snapshot.position, sequence.num_saved_tokens
        if position < MIN_TOKENS or (self._records.has_hidden and snapshot.hidden is None):
            return False
        return (
            position == sequence.num_prompt_tokens
            or (sequence.is_finished and position == sequence.num_computed_tokens)
            or (saved == 0 and position in sequence.request.snapshot_positions)
            or position >= saved + MIN_DISTANCE
        )

    def _new_records(self, sequence: Sequence, snapshot: Snapshot) -> list[Record]:
        """Those of a snapshot's text that the store does not have."""
        text = self._text(sequence.token_ids[: snapshot.position], sequence.request.cache_salt)
        parents, records = text.parents(), list[Record]()
        key = record_key(parents[-1], "snapshot", text.token_ids[text.num_pieces * PIECE_TOKENS :])
        if self._store.header(key) is not None:
            return []
        for number, (parent, piece) in enumerate(pairwise(parents)):
            if self._store.header(piece) is None:
                records.append(self._records.piece(text, number, parent, piece, sequence.kv))
        records.append(self._records.snapshot(text, parents[-1], key, snapshot, sequence.kv))
        return records

    # --- reading ---
    def waits(self, sequence: Sequence, num_known: int, needs_hidden: bool) -> bool:
        """True if a request is better off with what is on disk, and that is on its way, or will be.

        num_known: tokens of its prompt that could be had now.
        """
        kv_id = sequence.kv.kv_id
        if kv_id not in self._asked:
            found = restore = None
            try:
                found = self._worth_reading(sequence.request, num_known, needs_hidden)
                restore = None if found is None else self._restore_of(found)
            except Exception:
                log.exception("the prefixes on disk could not be looked up")
                found = None
            if found is not None and restore is None:
                return True  # there will be a place
            self._asked[kv_id] = restore
            if restore is not None:
                restore.waiting.add(kv_id)
        return self.is_waiting(sequence)

    def is_waiting(self, sequence: Sequence) -> bool:
        return self._asked.get(sequence.kv.kv_id) is not None

    @property
    def is_reading(self) -> bool:
        """True while anything is on its way."""
        return bool(self._restores)

    def adopt(self) -> None:
        """Put into the cache what has been read meanwhile, or a part of it."""
        for restore in list(self._restores.values()):
            if restore.reading.is_done and self._is_adopted(restore):
                self._end(restore)

    def give_up(self) -> bool:
        """Free the blocks of what is not wholly adopted, for somebody else needs them. False: there is none."""
        begun = [restore for restore in self._restores.values() if restore.steps is not None]
        for restore in begun:
            self.counts.num_unused += 1
            self._end(restore)
        return bool(begun)

    def forget(self, sequence: Sequence) -> None:
        """It waits no more."""
        restore = self._asked.pop(sequence.kv.kv_id, None)
        if restore is not None:
            restore.waiting.discard(sequence.kv.kv_id)
            if not restore.waiting and restore.steps is not None:
                self._end(restore)

    def _end(self, restore: _Restore) -> None:
        """Nobody waits for it any more."""
        self._restores = {key: each for key, each in self._restores.items() if each is not restore}
        if restore.steps is not None:
            restore.steps.close()
        for kv_id in restore.waiting:
            self._asked[kv_id] = None

    def _worth_reading(self, request: Request, num_known: int, needs_hidden: bool) -> _Found | None:
        if len(request.prompt_ids) <= num_known + MIN_TOKENS:
            return None
        found = self._find(request, needs_hidden)
        if found is None or found.num_tokens < num_known + MIN_TOKENS or not self._cache.may_keep(found.num_tokens):
            return None
        return found

    def _restore_of(self, found: _Found) -> _Restore | None:
        """The reading of a snapshot, which may have begun for another; None: too many are on their way."""
        restore = self._restores.get(found.snapshot.key)
        if restore is None and len(self._restores) < MAX_READINGS:
            text = found.text
            num_blocks = len(self._cache.known_blocks(text.token_ids.tolist(), text.salt))
            first_piece = min(num_blocks // PIECE_BLOCKS, text.num_pieces)
            keys = [*text.parents()[1 + first_piece :], found.snapshot.key]
            restore = self._restores[found.snapshot.key] = _Restore(text, first_piece, self._store.read(keys))
        return restore

    def _find(self, request: Request, needs_hidden: bool) -> _Found | None:
        """The snapshot on disk that saves the most of a prompt."""
        text, limit = self._text(request.prompt_ids, request.cache_salt), len(request.prompt_ids) - 1
        parents = [text.root]
        for number, key in enumerate(text.parents()[1:]):
            header = self._store.header(key)
            if header is None or not np.array_equal(header.token_ids, text.piece(number)):
                break
            parents.append(key)
        for number in range(len(parents) - 1, -1, -1):
            start, best = number * PIECE_TOKENS, None
            for header in self._store.snapshots(parents[number]):
                position = start + len(header.token_ids)
                length = min(start + _num_common(header.token_ids, text.token_ids[start:]), limit)
                if (best is None or length > best.num_tokens) and self._records.serves(
                    header, position, length, needs_hidden
                ):
                    whole = np.concatenate([text.token_ids[:start], header.token_ids])
                    best = _Found(length, Text(whole, text.salt, text.root), header)
            if best is not None:
                return best
        return None

    def _is_adopted(self, restore: _Restore) -> bool:
        """Adopt a part; True if nothing is left to be done, for good or bad."""
        if restore.steps is None:
            records = restore.reading.records
            if records is None:
                self.counts.num_damaged += 1
                log.warning("a prefix of %d tokens on disk was damaged, and is computed", len(restore.text.token_ids))
            if records is None or not restore.waiting:
                return True
            self.counts.num_read += len(records)
            self.counts.nbytes_read += sum(record.header.nbytes for record in records)
            restore.steps = self._records.restore(restore.text, restore.first_piece, records, self._cache)
        try:
            next(restore.steps)
        except StopIteration as end:
            self.counts.num_unused += not end.value
            return True
        except Exception:
            log.exception("a prefix of %d tokens from disk could not be used", len(restore.text.token_ids))
            self.counts.num_unused += 1
            return True
        return False

    def _text(self, token_ids: Seq[int], salt: str) -> Text:
        return Text(np.array(token_ids, np.int32), salt, root_key(self._identity, salt))


def _num_common(a: Ints, b: Ints) -> int:
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length
