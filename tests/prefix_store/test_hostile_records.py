"""What somebody may have put into the folder: files with right checksums and wrong contents, and things no files."""

import hashlib
import json
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stepahead.errors import ConfigError
from stepahead.prefix_store.store import PrefixStore
from support.prefix_records import IDENTITY, a_chain, a_record, keys, path_of, read

GB = 1 << 30
HUGE = (1 << 62, 1 << 63, 1 << 64, 10**400)


def checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def forged(head: Any, tokens: bytes, rest: bytes, magic: bytes = b"SAPREFIX", version: int = 1) -> bytes:
    raw = head if isinstance(head, bytes) else json.dumps(head).encode()
    data = struct.pack("<8sIII", magic, version, len(raw), len(tokens) // 4) + raw + tokens
    return data + checksum(data) + rest


@pytest.fixture
def genuine(tmp_path: Path) -> tuple[Path, dict[str, Any], bytes, bytes]:
    """A file and its parts: head, tokens, arrays."""
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    record = a_record(b"p" * 16, 1, nbytes=40)
    assert store.write([record])
    store.close()
    path = path_of(tmp_path, record)
    data = path.read_bytes()
    length, num_tokens = struct.unpack("<II", data[12:20])
    tokens = data[20 + length : 20 + length + 4 * num_tokens]
    parts = json.loads(data[20 : 20 + length]), tokens, data[20 + length + 4 * num_tokens + 16 :]
    assert forged(*parts) == data
    return path, *parts


def accepts(path: Path, data: bytes) -> bool:
    path.write_bytes(data)
    store = PrefixStore.open(path.parent.parent, IDENTITY, GB)
    key = bytes.fromhex(path.stem)
    is_there = store.header(key) is not None
    is_read = read(store, [key]) is not None
    assert is_read or (store.header(key) is None and not path.exists() and store.counts.num_dropped_damaged == 1)
    store.close()
    assert is_read <= is_there
    return is_read


WRONG_VALUES = (
    None,
    True,
    0,
    1.5,
    -1,
    "",
    "zz",
    "00",
    [],
    [[]],
    [None],
    {},
    {"a": 1},
    {"a": [1.5]},
    {"a": [None]},
    *HUGE,
)


@pytest.mark.parametrize("name", ["identity", "key", "parent", "kind", "is_first", "numbers", "arrays"])
def test_values_of_the_wrong_kind(genuine: Any, name: str) -> None:
    path, head, tokens, rest = genuine
    assert accepts(path, forged(head, tokens, rest))
    right: dict[str, tuple[Any, ...]] = {"is_first": (True,), "numbers": ({},)}
    for value in WRONG_VALUES:
        if not any(value == other and type(value) is type(other) for other in right.get(name, ())):
            assert not accepts(path, forged({**head, name: value}, tokens, rest)), value
    assert not accepts(path, forged({key: value for key, value in head.items() if key != name}, tokens, rest))


def test_arrays_of_the_wrong_kind(genuine: Any) -> None:
    path, head, tokens, rest = genuine
    name, nbytes, digest = head["arrays"][0]
    wrong = [
        *([name, size, digest] for size in (nbytes - 1, nbytes + 1, -nbytes, float(nbytes), str(nbytes), True, *HUGE)),
        *([other, nbytes, digest] for other in (1, None, "rows", [])),  # "rows" is another's
        *([name, nbytes, other] for other in ("", digest[:-2], digest + "00", "zz" * 16, 1, None)),
        [name, nbytes], [name, nbytes, digest, 0], [], "abc", {}, None,
    ]  # fmt: skip
    for section in wrong:
        assert not accepts(path, forged({**head, "arrays": [section, *head["arrays"][1:]]}, tokens, rest)), section
    assert not accepts(path, forged({**head, "arrays": head["arrays"][::-1]}, tokens, rest))
    assert not accepts(path, forged({**head, "arrays": head["arrays"][:1]}, tokens, rest))


def test_heads_of_the_wrong_kind(genuine: Any) -> None:
    path, head, tokens, rest = genuine
    for bad in (
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b"1",
        b'"a"',
        b"[" * 100_000,
        b"9" * 10_000,
        b"NaN",
        b" " * (1 << 20),
    ):
        assert not accepts(path, forged(bad, tokens, rest)), bad[:10]
    assert not accepts(path, forged(head, tokens, rest, magic=b"SAPREFIY"))
    for version in (0, 2, 2**32 - 1):
        assert not accepts(path, forged(head, tokens, rest, version=version))


def test_counts_beyond_the_file(genuine: Any) -> None:
    path, head, tokens, rest = genuine
    data = forged(head, tokens, rest)
    for at in (12, 16):
        for count in (2**32 - 1, 2**31, len(data), 1 << 20, 0):
            assert not accepts(path, data[:at] + struct.pack("<I", count) + data[at + 4 :])


def test_other_tokens_under_the_same_key(genuine: Any) -> None:
    """A key that is found is no proof: the tokens must be those that it is made of."""
    path, head, tokens, rest = genuine
    other = np.frombuffer(tokens, "<i4") + 1
    assert not accepts(path, forged(head, other.astype("<i4").tobytes(), rest))
    assert not accepts(path, forged({**head, "parent": "00" * 16}, tokens, rest))
    assert not accepts(path, forged({**head, "kind": "snapshot"}, tokens, rest))


def test_more_than_memory(genuine: Any) -> None:
    """A file with a hole may be larger than any machine."""
    path, head, tokens, _ = genuine
    overcommit = Path("/proc/sys/vm/overcommit_memory")
    if not overcommit.exists() or overcommit.read_text().strip() == "1":
        pytest.skip("this system promises any memory")
    size = 1 << 43
    data = forged({**head, "arrays": [["kv", size, "00" * 16]]}, tokens, b"")
    path.write_bytes(data)
    try:
        os.truncate(path, len(data) + size)
    except OSError:
        pytest.skip("this file system has no files so large")
    store = PrefixStore.open(path.parent.parent, IDENTITY, 1 << 60)
    assert store.header(bytes.fromhex(path.stem)) is not None
    assert read(store, [bytes.fromhex(path.stem)]) is None
    store.close()


def test_names_of_others(tmp_path: Path) -> None:
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    chain = a_chain(2)
    assert store.write(chain)
    store.close()
    first, second = (path_of(tmp_path, record) for record in chain)
    copy = first.with_name("0" * 32 + ".record")
    copy.write_bytes(first.read_bytes())
    second.write_bytes(first.read_bytes())
    strangers = [first.with_name(name) for name in ("notes.txt", ".hidden", "A" * 32 + ".record", first.name + "~")]
    for stranger in strangers:
        stranger.write_bytes(first.read_bytes())
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    assert store.counts.records == 1 and store.counts.num_dropped_damaged == 2
    assert not copy.exists() and not second.exists() and read(store, keys(chain[:1])) is not None
    assert all(stranger.exists() for stranger in strangers)  # whoever put them there may want them
    store.close()


def test_a_record_of_another_identity(tmp_path: Path) -> None:
    chain = a_chain(1)
    for identity in ("other", IDENTITY):
        store = PrefixStore.open(tmp_path, identity, GB)
        assert store.write(chain)
        store.close()
        if identity == "other":
            theirs = path_of(tmp_path, chain[0])
    (ours,) = set(tmp_path.glob("*/*.record")) - {theirs}
    ours.write_bytes(theirs.read_bytes())
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    assert store.counts.records == 0 and store.counts.num_dropped_damaged == 1
    store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="things that Unix has")
@pytest.mark.parametrize("when", ["before", "while"])
@pytest.mark.parametrize("what", ["fifo", "written fifo", "symlink", "loop", "socket", "device", "folder"])
def test_no_files(tmp_path: Path, what: str, when: str) -> None:
    folder, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    chain = a_chain(2)
    store = PrefixStore.open(folder, IDENTITY, GB)
    assert store.write(chain)
    store.close()
    if when == "while":
        store = PrefixStore.open(folder, IDENTITY, GB)
    path = path_of(folder, chain[1])
    elsewhere.write_bytes(path.read_bytes())
    path.unlink()
    put(what, path, elsewhere)
    if when == "before":
        store = PrefixStore.open(folder, IDENTITY, GB)
    assert read(store, keys(chain)) is None
    assert store.counts.num_dropped_damaged == 1
    assert read(store, keys(chain[:1])) is not None
    store.close()
    assert elsewhere.exists() and (what == "folder") == path.exists()
    if what == "written fifo":
        os.close(writers.pop())


writers: list[int] = []


def put(what: str, path: Path, elsewhere: Path) -> None:
    if what in ("fifo", "written fifo"):
        os.mkfifo(path)
        if what == "written fifo":
            writers.append(os.open(path, os.O_RDWR))  # who reads it now would wait, or find nothing yet
    elif what == "symlink":
        path.symlink_to(elsewhere)
    elif what == "loop":
        path.symlink_to(path)
    elif what == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # its address may not be long
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name)
        finally:
            os.chdir(here)
    elif what == "folder":
        path.mkdir()
    else:
        try:
            os.mknod(path, 0o20600, os.makedev(1, 5))  # /dev/zero
        except PermissionError:
            pytest.skip("only root makes devices")


@pytest.mark.skipif(sys.platform == "win32", reason="things that Unix has")
@pytest.mark.parametrize("what", ["fifo", "symlink", "folder"])
def test_a_lock_that_is_none(tmp_path: Path, what: str) -> None:
    folder, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    PrefixStore.open(folder, IDENTITY, GB).close()
    (own,) = folder.iterdir()
    elsewhere.write_text("")
    (own / "lock").unlink()
    put(what, own / "lock", elsewhere)
    with pytest.raises(ConfigError, match="folder"):
        PrefixStore.open(folder, IDENTITY, GB)


@pytest.mark.skipif(sys.platform == "win32", reason="things that Unix has")
def test_a_folder_that_is_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    PrefixStore.open(folder, IDENTITY, GB).close()
    (own,) = folder.iterdir()
    own.rename(tmp_path / "elsewhere")
    own.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="no folder"):
        PrefixStore.open(folder, IDENTITY, GB)


def test_no_prompts_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    chain = a_chain(2)
    assert store.write(chain)
    store.close()
    for record in chain:
        data = bytearray(path_of(tmp_path, record).read_bytes())
        data[-1] ^= 1
        path_of(tmp_path, record).write_bytes(data)
    store = PrefixStore.open(tmp_path, IDENTITY, GB)
    assert read(store, keys(chain)) is None
    store.close()
    assert caplog.text
    for record in chain:
        assert record.header.key.hex() not in caplog.text  # who guesses a text could tell by its key
        assert not any(str(token) in caplog.text for token in record.header.token_ids)
