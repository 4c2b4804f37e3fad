"""What is written is read again, now and by the next process; who has the folder, and who may look into it."""

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from stepahead.errors import ConfigError
from stepahead.prefix_store.record import record_key, root_key
from stepahead.prefix_store.store import MAX_WAITING_NBYTES, PrefixStore
from support.prefix_records import IDENTITY, ROOT, a_chain, a_record, keys, path_of, read, same, settle

GB = 1 << 30


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = PrefixStore.open(tmp_path / "cache", IDENTITY, GB)
    chain = a_chain(4)
    snapshots = [a_record(chain[-1].header.key, 50 + n, kind="snapshot", num_tokens=n) for n in range(2)]
    assert store.write(chain) and store.write(snapshots)
    settle(store)
    found = read(store, keys([*chain, *snapshots]))
    assert found is not None and all(map(same, found, [*chain, *snapshots]))
    assert {each.key for each in store.snapshots(chain[-1].header.key)} == set(keys(snapshots))
    assert not store.snapshots(chain[0].header.key)
    header = store.header(chain[1].header.key)
    assert header is not None and header.nbytes == 107 and header.parent == chain[0].header.key
    assert store.header(b"\0" * 16) is None
    counts = store.counts
    assert (counts.records, counts.num_written, counts.num_read) == (6, 6, 6)
    assert counts.nbytes == sum(path_of(tmp_path, record).stat().st_size for record in (*chain, *snapshots))
    assert (
        counts.num_dropped_damaged == counts.num_evicted == counts.num_failed_writes == counts.num_refused_writes == 0
    )
    store.close()


def test_what_waits_is_already_there(tmp_path: Path) -> None:
    """And is not given away: its arrays are their owner's again once it is written."""
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    chain = a_chain(1, nbytes=30_000_000)
    assert store.write(chain)
    assert store.header(chain[0].header.key) is not None
    found = read(store, keys(chain))
    assert found is not None and same(found[0], chain[0])
    assert not np.shares_memory(found[0].arrays["kv"], chain[0].arrays["kv"])
    store.close()


def test_what_is_there_is_not_written_again(tmp_path: Path) -> None:
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    chain = a_chain(3)
    assert store.write(chain[:2]) and store.write(chain) and store.write(chain)
    settle(store)
    assert store.counts.num_written == 3
    store.close()


def test_a_restart_finds_all(tmp_path: Path) -> None:
    chain = a_chain(5)
    snapshot = a_record(chain[-1].header.key, 77, kind="snapshot")
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    assert store.write([*chain, snapshot])
    store.close()  # writes what waits
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    assert store.counts.records == 6 and store.counts.num_dropped_damaged == 0
    assert keys_of_snapshots(store, chain[-1].header.key) == keys([snapshot])
    found = read(store, keys([*chain, snapshot]))
    assert found is not None and all(map(same, found, [*chain, snapshot]))
    store.close()


def keys_of_snapshots(store: PrefixStore, parent: bytes) -> list[bytes]:
    return [header.key for header in store.snapshots(parent)]


def test_identities_do_not_meet(tmp_path: Path) -> None:
    chain = a_chain(2)
    for identity in (IDENTITY, "another"):
        store = PrefixStore.open(tmp_path, identity, GB)
        assert store.header(chain[0].header.key) is None and store.counts.records == 0
        assert store.write(chain)
        store.close()
    assert len(list(tmp_path.glob("*/*.record"))) == 4


def test_keys_tell_texts_apart() -> None:
    ids = np.arange(4, dtype=np.int32)
    made = {
        record_key(root, kind, ids)
        for root in (ROOT, root_key(IDENTITY, "salt"), root_key("other", ""))
        for kind in ("blocks", "snapshot")
    }
    made |= {record_key(ROOT, "blocks", ids[:3]), record_key(ROOT, "blocks", ids[::-1])}
    assert len(made) == 8


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    chain = a_chain(2)
    assert store.write(chain[:1])
    reading = store.read(keys(chain))
    assert reading.is_done and reading.records is None
    assert read(store, []) == ()
    store.close()


def test_closed(tmp_path: Path) -> None:
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    chain = a_chain(1)
    store.close()
    store.close()
    assert not store.write(chain)
    assert store.read(keys(chain)).is_done
    assert store.counts.num_refused_writes == 1


def test_another_thread_asks_whether_it_is_done(tmp_path: Path) -> None:
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    chain = a_chain(8, nbytes=1_000_000)
    assert store.write(chain)
    settle(store)
    wrong: list[object] = []

    def watch(reading) -> None:
        while not reading.is_done:
            time.sleep(0)
        if reading.records is None or len(reading.records) != len(chain):
            wrong.append(reading.records)

    for _ in range(20):
        reading = store.read(keys(chain))
        watchers = [threading.Thread(target=watch, args=(reading,)) for _ in range(2)]
        for watcher in watchers:
            watcher.start()
        for watcher in watchers:
            watcher.join()
    assert not wrong
    store.close()


def test_no_more_waits_than_is_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepahead.prefix_store.store.MAX_WAITING_NBYTES", 1000)
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    release = threading.Event()
    write = store._folder.write
    monkeypatch.setattr(store._folder, "write", lambda *args: (release.wait(60), write(*args)))
    chain = a_chain(3, nbytes=450)
    assert store.write(chain[:1]) and store.write(chain[1:2])
    assert not store.write(chain[2:])
    assert store.header(chain[2].header.key) is None and store.counts.num_refused_writes == 1
    release.set()
    settle(store)
    assert store.write(chain[2:])
    settle(store)
    assert store.write(a_chain(1, seed=5, nbytes=5000))  # more than may wait, but nothing does
    store.close()
    assert MAX_WAITING_NBYTES == 512 << 20


def test_readings_overtake_writings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    old, new = a_chain(1), a_chain(9, seed=1)
    assert store.write(old)
    settle(store)
    release = threading.Event()
    write = store._folder.write
    monkeypatch.setattr(store._folder, "write", lambda *args: (release.wait(60), write(*args)))
    assert store.write(new)
    reading = store.read(keys(old))
    num_written: list[int] = []
    finish = reading.finish
    monkeypatch.setattr(
        reading, "finish", lambda records: (num_written.append(store.counts.num_written), finish(records))
    )
    release.set()
    assert reading.wait(60) and reading.records is not None
    assert num_written[0] <= 2
    store.close()


# --- who has the folder ---
def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepahead.prefix_store.store.LOCK_SECONDS", 0.2)
    program = """
import sys
from pathlib import Path
from stepahead.prefix_store.store import PrefixStore
store = PrefixStore.open(Path(sys.argv[1]), sys.argv[2], 1 << 30)
print("open", flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), IDENTITY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None and child.stdout is not None
    with child:
        assert child.stdout.readline() == b"open\n"
        with pytest.raises(ConfigError, match="another process") as caught:
            PrefixStore.open(tmp_path, IDENTITY, GB)
        assert str(tmp_path) in str(caught.value) and "folder" in str(caught.value)
        PrefixStore.open(tmp_path, "another model", GB).close()
        child.kill()
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    with pytest.raises(ConfigError, match="another process"):
        PrefixStore.open(tmp_path, IDENTITY, GB)
    store.close()
    PrefixStore.open(tmp_path, IDENTITY, GB).close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
def test_only_its_user_may_look(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = PrefixStore.open(tmp_path / "new" / "cache", IDENTITY, GB)
        assert store.write(a_chain(2))
        store.close()
    finally:
        os.umask(old)
    found = list((tmp_path / "new" / "cache").rglob("*"))
    assert len(found) == 4  # its folder, the lock and two records
    for path in [tmp_path / "new" / "cache", *found]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other permissions")
def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    """It may be the user's home; what is made in it is nobody else's."""
    tmp_path.chmod(0o755)
    PrefixStore.open(tmp_path, IDENTITY, GB).close()
    (made,) = tmp_path.iterdir()
    made.chmod(0o777)
    PrefixStore.open(tmp_path, IDENTITY, GB).close()
    assert (stat.S_IMODE(tmp_path.stat().st_mode), stat.S_IMODE(made.stat().st_mode)) == (0o755, 0o700)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user(tmp_path: Path) -> None:
    PrefixStore.open(tmp_path, IDENTITY, GB).close()
    (made,) = tmp_path.iterdir()
    os.chown(made, 12345, 12345)
    with pytest.raises(ConfigError, match="another user"):
        PrefixStore.open(tmp_path, IDENTITY, GB)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file" / "below", Path("nul\0byte")):
        with pytest.raises(ConfigError, match="folder"):
            PrefixStore.open(bad, IDENTITY, GB)
    with pytest.raises(ConfigError, match="0 bytes"):
        PrefixStore.open(tmp_path, IDENTITY, 0)
