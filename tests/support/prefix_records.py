"""Records to put into a prefix store: chains of random tokens and bytes, told apart by a seed."""

import time
from collections.abc import Sequence as Seq
from pathlib import Path

import numpy as np

from stepahead.prefix_store.record import Header, Kind, Record, record_key, root_key
from stepahead.prefix_store.store import PrefixStore, Reading

IDENTITY = "model q8 numerics 1"
ROOT = root_key(IDENTITY, "")


def a_record(parent: bytes, seed: int, nbytes: int = 100, kind: Kind = "blocks", num_tokens: int = 5) -> Record:
    """The same for the same arguments, but for the parent."""
    random = np.random.default_rng(seed)
    token_ids = random.integers(0, 1 << 17, num_tokens).astype(np.int32)
    arrays = {name: random.integers(0, 256, size, np.uint8) for name, size in (("kv", nbytes), ("rows", 7), ("no", 0))}
    numbers = {"lowest": (seed,), "shape": (2, -3, 1 << 40), "none": ()}
    return Record(Header(record_key(parent, kind, token_ids), parent, kind, token_ids, numbers), arrays)


def a_chain(length: int, seed: int = 0, nbytes: int = 100, parent: bytes = ROOT) -> list[Record]:
    """Blocks, each continuing the one before."""
    records: list[Record] = []
    for number in range(length):
        records.append(a_record(records[-1].header.key if records else parent, 1000 * seed + number, nbytes))
    return records


def keys(records: Seq[Record]) -> list[bytes]:
    return [record.header.key for record in records]


def read(store: PrefixStore, wanted: Seq[bytes]) -> tuple[Record, ...] | None:
    reading: Reading = store.read(wanted)
    assert reading.wait(60)
    return reading.records


def settle(store: PrefixStore) -> None:
    """Until all that was to be written is, or is not to be."""
    deadline = time.monotonic() + 60
    while store._waiting_nbytes:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def same(found: Record, record: Record) -> bool:
    one, other = found.header, record.header
    return (
        (one.key, one.parent, one.kind, dict(one.numbers)) == (other.key, other.parent, other.kind, dict(other.numbers))
        and np.array_equal(one.token_ids, other.token_ids)
        and one.nbytes == sum(array.size for array in record.arrays.values())
        and found.arrays.keys() == record.arrays.keys()
        and all(np.array_equal(array, record.arrays[name]) for name, array in found.arrays.items())
    )


def path_of(folder: Path, record: Record) -> Path:
    (path,) = folder.rglob(f"{record.header.key.hex()}.record")
    return path
