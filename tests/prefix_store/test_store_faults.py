"""Flipped and missing bytes, killed processes, full disks: never a wrong record, never an exception."""

import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from stepahead.prefix_store.record_file import DamagedError, read_head, read_record
from stepahead.prefix_store.store import PrefixStore
from support.prefix_records import IDENTITY, a_chain, a_record, keys, path_of, read, same, settle

GB = 1 << 30


@pytest.fixture
def whole(tmp_path: Path) -> tuple[Path, bytes]:
    """A small record's file, and what is in it."""
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    record = a_record(b"p" * 16, 1, nbytes=40)
    assert store.write([record])
    store.close()
    path = path_of(tmp_path, record)
    assert same(read_record(path, path.parent.name), record)
    return path, path.read_bytes()


def damaged(data: bytes) -> Iterator[bytes]:
    """Every byte changed, in one bit and in all; every length but the right one; some bytes more."""
    chance = random.Random(0)
    for at, byte in enumerate(data):
        for change in (1 << chance.randrange(8), 0xFF):
            yield data[:at] + bytes((byte ^ change,)) + data[at + 1 :]
    for length in range(len(data)):
        yield data[:length]
    for more in (b"\0", b"\xff" * 4096, data):
        yield data + more


def test_no_damage_is_overlooked(whole: tuple[Path, bytes]) -> None:
    path, data = whole
    num_tried = 0
    for bad in damaged(data):
        path.unlink()  # to write over a file takes some file systems ten times as long
        path.write_bytes(bad)
        with pytest.raises(DamagedError):
            read_record(path, path.parent.name)
        num_tried += 1
    assert num_tried > 3 * len(data)


def test_damage_before_the_start(whole: tuple[Path, bytes]) -> None:
    """In the head: the record is not there. In an array: it is there until it is read."""
    path, data = whole
    head_size = len(data) - 47
    key = bytes.fromhex(path.stem)
    for number, bad in enumerate(damaged(data)):
        if number % 7 and len(bad) > head_size:  # each kind, and not all day
            continue
        path.write_bytes(bad)
        store = PrefixStore.open(path.parent.parent, IDENTITY, GB)
        is_found = store.header(key) is not None
        assert is_found == (len(bad) == len(data) and bad[:head_size] == data[:head_size])
        assert read(store, [key]) is None
        assert store.header(key) is None and store.counts.num_dropped_damaged == 1 and store.counts.records == 0
        assert not path.exists()
        store.close()


def test_damage_while_it_runs_takes_what_needs_it(tmp_path: Path) -> None:
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    chain = a_chain(4)
    snapshot = a_record(chain[2].header.key, 60, kind="snapshot")
    branch = a_chain(2, seed=3, parent=chain[0].header.key)
    assert store.write([*chain, snapshot, *branch])
    settle(store)
    path = path_of(tmp_path, chain[1])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert read(store, keys(chain)) is None
    left = [record for record in (*chain, snapshot, *branch) if store.header(record.header.key) is not None]
    assert keys(left) == keys([chain[0], *branch])
    assert store.counts.num_dropped_damaged == 4 and len(list(tmp_path.glob("*/*.record"))) == 3
    found = read(store, keys(branch))
    assert found is not None and all(map(same, found, branch))
    assert store.write(chain)  # computed again
    settle(store)
    assert read(store, keys(chain)) is not None
    store.close()


def test_a_broken_chain_is_dropped_at_the_start(tmp_path: Path) -> None:
    chain, other = a_chain(5), a_chain(2, seed=1)
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    assert store.write([*chain, *other])
    store.close()
    path_of(tmp_path, chain[2]).unlink()
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    left = [record for record in (*chain, *other) if store.header(record.header.key) is not None]
    assert keys(left) == keys([*chain[:2], *other])
    assert store.counts.num_dropped_damaged == 2 and len(list(tmp_path.glob("*/*.record"))) == 4
    store.close()


def test_a_damaged_reading_does_not_disturb_the_next(tmp_path: Path) -> None:
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    chain = a_chain(3, nbytes=100_000)
    assert store.write(chain)
    settle(store)
    path_of(tmp_path, chain[2]).write_bytes(b"")
    first, second = store.read(keys(chain)), store.read(keys(chain))
    assert first.wait(60) and second.wait(60) and first.records is None and second.records is None
    assert read(store, keys(chain[:2])) is not None
    assert store.counts.num_dropped_damaged == 1
    store.close()


def test_a_folder_that_is_spoilt_all_the_time(tmp_path: Path) -> None:
    """Much is written, read, evicted and damaged at once: what is read is right, and what is counted is there."""
    chance = random.Random(2)
    budget = 40_000
    store = PrefixStore.open(tmp_path, IDENTITY, budget)
    chains = [a_chain(6, seed, nbytes=2000) for seed in range(12)]
    is_over = threading.Event()
    spoiler = threading.Thread(target=spoil, args=(tmp_path, is_over))
    spoiler.start()
    num_read = num_lost = 0
    for _ in range(1500):
        chain = chance.choice(chains)
        length = sum(store.header(record.header.key) is not None for record in chain)
        if chance.random() < 0.5:
            assert store.write(chain[: chance.randrange(1, len(chain) + 1)])
        else:
            found = read(store, keys(chain[:length]))
            assert found is None or all(map(same, found, chain[:length]))
            num_read += bool(found)
            num_lost += found is None
    is_over.set()
    spoiler.join()
    settle(store)
    counts = store.counts
    assert num_read > 100 and num_lost > 10 and counts.num_evicted > 50 and counts.num_dropped_damaged > 10, counts
    assert counts.num_failed_writes == 0 and counts.nbytes <= budget
    for record in (record for chain in chains for record in chain):
        read(store, [record.header.key])  # so that what was deleted behind its back is missed
    files = list(tmp_path.glob("*/*.record"))
    assert store.counts.records == len(files) and store.counts.nbytes == sum(file.stat().st_size for file in files)
    store.close()
    store = PrefixStore.open(tmp_path, IDENTITY, budget)
    assert store.counts.num_dropped_damaged == 0 and store.counts.records == len(files)
    store.close()


def spoil(folder: Path, is_over: threading.Event) -> None:
    chance = random.Random(3)
    while not is_over.wait(0.02):
        with suppress(OSError):
            path = chance.choice(list(folder.glob("*/*.record")) or [folder / "none"])
            if chance.random() < 0.3:
                path.unlink()
            else:
                with path.open("r+b") as file:
                    file.seek(chance.randrange(path.stat().st_size))
                    file.write(chance.randbytes(3))


# --- killed ---
WRITER = """
import sys
from pathlib import Path
from support.prefix_records import IDENTITY, a_chain
from stepahead.prefix_store.store import PrefixStore
store = PrefixStore.open(Path(sys.argv[1]), IDENTITY, 3_000_000)
print("open", flush=True)
for seed in range(int(sys.argv[2]), 1_000_000):
    while not store.write(a_chain(4, seed, nbytes=100_000)):
        pass
"""


def child(program: str, *args: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", program, *args], stdout=subprocess.PIPE, env=environment())


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@pytest.mark.skipif(sys.platform == "win32", reason="kills as Unix does")
def test_killed_while_writing(tmp_path: Path) -> None:
    chance = random.Random(1)
    for round_number in range(15):
        with child(WRITER, str(tmp_path), str(1000 * round_number)) as process:
            assert process.stdout is not None and process.stdout.readline() == b"open\n"
            time.sleep(chance.uniform(0.01, 0.15))
            process.send_signal(signal.SIGKILL)
        (folder,) = tmp_path.iterdir()
        (folder / f".{'ab' * 16}.tmp").write_bytes(bytes(100))  # for a kill in the middle of a file is a matter of luck
        store = PrefixStore.open(tmp_path, IDENTITY, 3_000_000)
        assert not list(folder.glob(".*.tmp"))
        assert store.counts.num_dropped_damaged == 0
        for path in folder.glob("*.record"):
            key = bytes.fromhex(path.stem)
            header = store.header(key)
            found = read(store, [key])
            assert header is not None and found is not None
            # What it must be follows from the seed in it.
            (seed,) = header.numbers["lowest"]
            assert same(found[0], a_record(header.parent, seed, nbytes=100_000))
        assert store.counts.num_dropped_damaged == 0 and store.counts.nbytes <= 3_000_000
        store.close()
    assert store.counts.records > 0


# --- a disk that takes no more ---
LIMITED = """
import logging, resource, signal, sys
from pathlib import Path
from support.prefix_records import IDENTITY, a_chain, keys, read, same, settle
from stepahead.prefix_store.store import PrefixStore
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
store = PrefixStore.open(Path(sys.argv[1]), IDENTITY, 1 << 30)
small, large, after = a_chain(2), a_chain(3, 1, nbytes=100_000), a_chain(2, 2)
assert store.write(small)
settle(store)
store.write(large) and store.write(after)
settle(store)
assert not store.write(after)
assert [each is None for each in map(store.header, keys([*small, *large, *after]))] == [False] * 2 + [True] * 5
found = read(store, keys(small))
assert found is not None and all(map(same, found, small))
counts = store.counts
assert counts.num_written == counts.records == 2 and counts.num_failed_writes >= 3, counts
assert counts.num_failed_writes + counts.num_refused_writes == 7, counts
store.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits as Unix has them")
def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    with child(LIMITED, str(tmp_path)) as process:
        assert process.stdout is not None
        said = process.stdout.read().decode()
    assert process.returncode == 0, said
    assert said.count("\n") == 1 and said.startswith("WARNING") and str(tmp_path) in said
    assert len(list(tmp_path.glob("*/*"))) == 3  # the lock and two records, and nothing half-written


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("may not mount a disk to fill")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = PrefixStore.open(small_disk, IDENTITY, GB)
    chain = a_chain(8, nbytes=200_000)
    assert store.write(chain)
    settle(store)
    kept = [record for record in chain if store.header(record.header.key) is not None]
    assert keys(kept) == keys(chain[:5]) or keys(kept) == keys(chain[:4])
    found = read(store, keys(kept))
    assert found is not None and all(map(same, found, kept))
    assert not store.write(a_chain(1, seed=1))
    assert store.counts.num_failed_writes == len(chain) - len(kept)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] and "No space" in caplog.text
    assert not list(small_disk.glob("*/.*.tmp"))
    store.close()
    store = PrefixStore.open(small_disk, IDENTITY, GB)  # the next process tries again
    assert store.counts.records == len(kept) and store.counts.num_dropped_damaged == 0
    store.close()


def test_a_folder_that_vanishes(tmp_path: Path) -> None:
    store = PrefixStore.open(tmp_path / "cache", IDENTITY, GB)
    chain = a_chain(4)
    assert store.write(chain[:2])
    settle(store)
    shutil.rmtree(tmp_path / "cache")
    assert store.write(chain[2:])
    settle(store)
    assert read(store, keys(chain[:2])) is None
    assert not store.write(a_chain(1, seed=1))
    assert store.counts.records == 0
    store.close()


def test_a_bug_of_ours_does_not_stop_the_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    chain, other = a_chain(2), a_chain(1, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(store._folder, "encode", lambda entry: 1 // 0)
        assert store.write(chain)
        settle(store)
    assert store.header(chain[0].header.key) is None and store.counts.num_failed_writes == 2
    assert store.write(other)
    settle(store)
    with monkeypatch.context() as patch:
        patch.setattr(store._folder, "read", lambda entry: 1 // 0)
        assert read(store, keys(other)) is None
    assert store.header(other[0].header.key) is None
    assert store.write(chain)
    settle(store)
    assert read(store, keys(chain)) is not None
    assert "could not be" in caplog.text
    store.close()


def test_a_disk_that_is_slow_to_take_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is not written, what is begun is finished, and the folder is free."""
    monkeypatch.setattr("stepahead.prefix_store.store.CLOSE_SECONDS", 1.0)
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    write = store._folder.write
    monkeypatch.setattr(store._folder, "write", lambda *args: (time.sleep(0.2), write(*args)))
    chain = a_chain(20)
    assert store.write(chain)
    began = time.monotonic()
    store.close()
    assert time.monotonic() - began < 3.5
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    assert 1 <= store.counts.records < 20 and store.counts.num_dropped_damaged == 0
    store.close()


def test_heads_alone_are_read_at_the_start(whole: tuple[Path, bytes]) -> None:
    path, data = whole
    path.write_bytes(data[:-47] + bytes(47))
    head, size = read_head(path, path.parent.name)
    assert size == len(data) and head.header.nbytes == 47
