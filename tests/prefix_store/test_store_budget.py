"""What goes when room is short: others first, then the least recently used record that nothing continues."""

import os
import threading
import time
from pathlib import Path

import pytest

from stepahead.prefix_store.identity_folder import IdentityFolder
from stepahead.prefix_store.index import Entry, Index
from stepahead.prefix_store.other_folders import OtherFolders
from stepahead.prefix_store.record import Record
from stepahead.prefix_store.store import PrefixStore
from support.prefix_records import IDENTITY, a_chain, a_record, keys, path_of, read, settle

SIZE = 10_000  # of an array; heads and the small arrays come on top
FILE = 10_700  # more than a file has, and less than 1.1 arrays


def has(store: PrefixStore, record: Record) -> bool:
    return store.header(record.header.key) is not None


def write(store: PrefixStore, records: list[Record]) -> None:
    assert store.write(records)
    settle(store)


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_leaves_go_first_the_least_recently_used_before_others(tmp_path: Path) -> None:
    store = PrefixStore.open(tmp_path, IDENTITY, 6 * FILE)
    chain = a_chain(3, nbytes=SIZE)
    snapshot = a_record(chain[0].header.key, 90, SIZE, "snapshot")
    other = a_chain(2, seed=2, nbytes=SIZE)
    write(store, [*chain, snapshot])
    write(store, other)
    assert read(store, keys([chain[0], snapshot])) is not None  # chain[2], then chain[1] are the oldest leaves now
    write(store, a_chain(1, seed=3, nbytes=SIZE))
    assert [has(store, record) for record in (*chain, snapshot, *other)] == [True, True, False, True, True, True]
    write(store, a_chain(1, seed=4, nbytes=SIZE))
    assert [has(store, record) for record in (*chain, snapshot, *other)] == [True, False, False, True, True, True]
    write(store, a_chain(1, seed=5, nbytes=SIZE))
    assert [has(store, record) for record in (*chain, snapshot, *other)] == [True, False, False, True, True, False]
    assert store.counts.num_evicted == 3 and on_disk(tmp_path) == store.counts.nbytes <= 6 * FILE
    store.close()


def test_use_outlives_the_process(tmp_path: Path) -> None:
    records = [a_chain(1, seed, SIZE)[0] for seed in range(8)]
    store = PrefixStore.open(tmp_path, IDENTITY, 8 * FILE)
    write(store, records)
    for number in (6, 0, 4, 2):
        assert read(store, keys([records[number]])) is not None
    store.close()
    store = PrefixStore.open(tmp_path, IDENTITY, 8 * FILE)
    gone = []
    for seed in range(8, 16):
        write(store, a_chain(1, seed, SIZE))
        gone += [number for number, record in enumerate(records) if not has(store, record) and number not in gone]
    assert gone == [1, 3, 5, 7, 6, 0, 4, 2]
    store.close()


def test_a_time_to_come_is_no_longer_life(tmp_path: Path) -> None:
    """A clock was wrong, or somebody wished to be kept."""
    records = [a_chain(1, seed, SIZE)[0] for seed in range(3)]
    store = PrefixStore.open(tmp_path, IDENTITY, 3 * FILE)
    write(store, records)
    store.close()
    os.utime(path_of(tmp_path, records[1]), (2**33, 2**33))
    store = PrefixStore.open(tmp_path, IDENTITY, 3 * FILE)
    write(store, a_chain(1, 9, SIZE))
    assert [has(store, record) for record in records] == [True, False, True]
    store.close()


def test_use_goes_up_the_chain() -> None:
    """So that the oldest of all is a leaf, and no search is needed for one."""
    chain = a_chain(5)
    entries = [Entry(record.header, number == 0) for number, record in enumerate(chain)]
    index = Index(entries)
    for used in (keys(chain), keys(chain[4:]), keys(chain[:3]) + keys(chain[3:])):
        index.use(used)
        times = [entry.last_used_ns for entry in entries]
        assert times == sorted(times, reverse=True) and len(set(times)) == 5
        assert index.oldest_leaf() is entries[-1] and next(iter(index._entries)) == chain[-1].header.key


def test_a_smaller_budget_is_kept_from_the_start(tmp_path: Path) -> None:
    store = PrefixStore.open(tmp_path, IDENTITY, 9 * FILE)
    chain = a_chain(6, nbytes=SIZE)
    write(store, chain)
    store.close()
    store = PrefixStore.open(tmp_path, IDENTITY, 2 * FILE)
    assert [has(store, record) for record in chain] == [True, True, False, False, False, False]
    assert store.counts.num_evicted == 4 and on_disk(tmp_path) <= 2 * FILE
    store.close()


def test_what_cannot_fit_is_refused_with_all_that_needs_it(tmp_path: Path) -> None:
    store = PrefixStore.open(tmp_path, IDENTITY, 3 * FILE)
    kept = a_chain(1, nbytes=SIZE)
    write(store, kept)
    large = a_chain(1, seed=1, nbytes=4 * SIZE)
    write(store, [*large, *a_chain(2, seed=2, nbytes=10, parent=large[0].header.key)])
    assert store.counts.num_refused_writes == 3 and store.counts.records == 1 and has(store, kept[0])
    long = a_chain(4, seed=3, nbytes=SIZE)  # its own parents are all that could go
    write(store, long)
    assert [has(store, record) for record in long] == [True, True, True, False]
    assert store.counts.num_refused_writes == 4
    assert store.write(a_chain(1, seed=4, nbytes=SIZE))  # and it goes on
    settle(store)
    assert store.counts.num_failed_writes == 0
    store.close()


def test_what_is_being_read_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PrefixStore.open(tmp_path, IDENTITY, 2 * FILE)
    records = [a_chain(1, seed, SIZE)[0] for seed in range(4)]
    write(store, records[:2])
    begun, go_on = threading.Event(), threading.Event()
    make_room = store._make_room
    monkeypatch.setattr(store, "_make_room", lambda n: (begun.set(), go_on.wait(60), make_room(n))[2])
    assert store.write(records[2:3])
    assert begun.wait(60)
    readings = [store.read(keys([record])) for record in records[:2]]  # both are needed now, just before one would go
    go_on.set()
    assert all(reading.wait(60) and reading.records is not None for reading in readings)
    settle(store)
    assert has(store, records[0]) and has(store, records[1]) and not has(store, records[2])
    write(store, records[3:])
    assert has(store, records[3])  # nobody reads any more
    store.close()


# --- other identities ---
def filled(folder: Path, identity: str, records: list[Record], when: float) -> None:
    store = PrefixStore.open(folder, identity, 1 << 30)
    write(store, records)
    store.close()
    for number, record in enumerate(records):
        (path,) = (path for path in folder.glob(f"*/{record.header.key.hex()}.record"))
        os.utime(path, (when + number, when + number))


def test_records_of_others_go_first_the_oldest_before_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepahead.prefix_store.store.ROOM_SHARE", 1 << 30)
    now = time.time() - 10_000
    old, older = a_chain(2, seed=1, nbytes=SIZE), a_chain(2, seed=2, nbytes=SIZE)
    filled(tmp_path, "old", old, now)
    filled(tmp_path, "older", older, now - 1000)
    (tmp_path / "mine.txt").write_text("not a store's")
    (tmp_path / ("ab" * 16)).mkdir()
    (tmp_path / ("ab" * 16) / ("cd" * 16 + ".record")).write_bytes(bytes(100_000))  # no lock: no store made it
    store = PrefixStore.open(tmp_path, IDENTITY, 5 * FILE)
    own = a_chain(5, nbytes=SIZE)
    gone = []
    for record in own:
        write(store, [record])
        gone.append([not list(tmp_path.glob(f"*/{each.header.key.hex()}.record")) for each in (*older, *old)])
    # The leaf of each chain before its parent.
    assert gone == [
        [False, False, False, False],
        [False, True, False, False],
        [True, True, False, False],
        [True, True, False, True],
        [True, True, True, True],
    ]
    assert store.counts.records == 5 and store.counts.num_evicted == 4
    assert (tmp_path / "mine.txt").exists() and (tmp_path / ("ab" * 16) / ("cd" * 16 + ".record")).exists()
    store.close()


def test_records_of_a_live_process_stay(tmp_path: Path) -> None:
    theirs, own = a_chain(2, seed=1, nbytes=SIZE), a_chain(3, nbytes=SIZE)
    other = PrefixStore.open(tmp_path, "other", 1 << 30)
    write(other, theirs)
    store = PrefixStore.open(tmp_path, IDENTITY, 4 * FILE)
    write(store, own)
    assert [has(store, record) for record in own] == [True, True, False]  # theirs count
    assert all(read(other, keys(theirs)) or ())
    other.close()
    store.close()


def test_others_are_looked_at_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, "other", a_chain(2, seed=1, nbytes=SIZE), time.time())
    others = OtherFolders(tmp_path, "")
    before = others.nbytes()
    for path in tmp_path.glob("*/*.record"):
        path.unlink()
    assert others.nbytes() == before > 2 * SIZE
    monkeypatch.setattr("stepahead.prefix_store.other_folders.MEASURE_SECONDS", 0.0)
    assert others.nbytes() == 0


def test_locks_of_others_are_not_tried_for_each_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = PrefixStore.open(tmp_path, "other", 1 << 30)
    write(other, a_chain(2, seed=1, nbytes=SIZE))
    store = PrefixStore.open(tmp_path, IDENTITY, 4 * FILE)
    tried: list[Path] = []
    real = IdentityFolder.open
    monkeypatch.setattr(IdentityFolder, "open", lambda path, *args: (tried.append(path), real(path, *args))[1])
    for seed in range(2, 9):
        write(store, a_chain(1, seed, SIZE))
    assert len(tried) == 1 and store.counts.num_evicted == 5
    other.close()
    store.close()
