"""The file of one record: how it is written, and what is checked before a byte of it is believed.

Layout, little-endian: MAGIC, u32 version, u32 bytes of the JSON, u32 number of tokens, the JSON, the tokens (int32), a
checksum of all that; then the arrays, whose lengths and checksums the JSON has. A file that is not exactly this is
answered by DamagedError and not by repair: what it holds can be computed again.
Must not know: folders, budgets, which records there are.
"""

import hashlib
import json
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from stepahead.gguf.block_quants import Bytes
from stepahead.prefix_store.record import KEY_BYTES, Header, Kind, Record, record_key

MAGIC = b"SAPREFIX"
VERSION = 1
CHECKSUM_BYTES = 16
MAX_JSON_BYTES = 1 << 20
MAX_TOKENS = 1 << 20
_PREAMBLE = struct.Struct("<8sIII")


class DamagedError(Exception):
    """Why a file is not the record that it should be."""


@dataclass(frozen=True, slots=True)
class Section:
    """An array in the file."""

    name: str
    nbytes: int
    checksum: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """What comes before the arrays."""

    header: Header
    is_first: bool  # of its chain: its parent is a root, and no record that could be missing
    sections: tuple[Section, ...]


# --- writing ---
def encode(record: Record, is_first: bool, identity: str) -> list[memoryview]:
    """The file's bytes, in parts; those of the arrays are not copied."""
    arrays = {name: np.ascontiguousarray(array).data for name, array in record.arrays.items()}
    header = record.header
    found = {
        "identity": identity,
        "key": header.key.hex(),
        "parent": header.parent.hex(),
        "kind": header.kind,
        "is_first": is_first,
        "numbers": {name: list(values) for name, values in header.numbers.items()},
        "arrays": [[name, array.nbytes, _checksum(array).hex()] for name, array in arrays.items()],
    }
    raw = json.dumps(found).encode()
    tokens = header.token_ids.astype("<i4").tobytes()
    assert len(raw) <= MAX_JSON_BYTES and header.token_ids.size <= MAX_TOKENS, "a record is for one stretch of a text"
    head = _PREAMBLE.pack(MAGIC, VERSION, len(raw), header.token_ids.size) + raw + tokens
    return [memoryview(head + _checksum(head)), *arrays.values()]


def write_parts(path: Path, parts: Seq[memoryview]) -> None:
    """Write a new file, for this user's eyes, and have it on the disk."""
    with open(path, "xb", opener=_private) as file:
        for part in parts:
            file.write(part)
        file.flush()
        os.fsync(file.fileno())


# --- reading ---
def read_head(path: Path, identity: str) -> tuple[Head, int]:
    """A file's head and its size. The arrays are not looked at."""
    with _opened(path) as (file, size):
        return _read_head(file, size, identity), size


def read_record(path: Path, identity: str) -> Record:
    """All of it, in memory of its own, once every checksum was right."""
    with _opened(path) as (file, size):
        head = _read_head(file, size, identity)
        return Record(head.header, {section.name: _read_section(file, section) for section in head.sections})


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BufferedReader, int]]:
    """A file and its size; any failure inside the block is a DamagedError."""
    try:
        # Asked before opening: opening a device may do anything.
        _demand_regular(path.lstat())
        with open(path, "rb", opener=_unfollowed) as file:
            status = os.fstat(file.fileno())
            _demand_regular(status)
            yield file, status.st_size
    except (OSError, MemoryError) as error:
        raise DamagedError(str(error)) from None


def _read_head(file: BufferedReader, size: int, identity: str) -> Head:
    preamble = file.read(_PREAMBLE.size)
    if len(preamble) < _PREAMBLE.size:
        raise DamagedError("it is too short")
    magic, version, json_length, num_tokens = _PREAMBLE.unpack(preamble)
    if magic != MAGIC or version != VERSION:
        raise DamagedError("it holds something else, or another version of it")
    length = json_length + 4 * num_tokens
    if json_length > MAX_JSON_BYTES or num_tokens > MAX_TOKENS or _PREAMBLE.size + length + CHECKSUM_BYTES > size:
        raise DamagedError("its head claims more than there is")
    raw, checksum = file.read(length), file.read(CHECKSUM_BYTES)
    if _checksum(preamble + raw) != checksum:
        raise DamagedError("its head is damaged")
    head = _parse(raw[:json_length], np.frombuffer(raw[json_length:], "<i4").astype(np.int32), identity)
    if file.tell() + head.header.nbytes != size:
        raise DamagedError("it is shorter or longer than its arrays")
    return head


def _read_section(file: BufferedReader, section: Section) -> Bytes:
    array = np.empty(section.nbytes, np.uint8)
    # In one piece: every call gives the interpreter to other threads and has to wait to get it back.
    if file.readinto(array.data) != section.nbytes or _checksum(array.data) != section.checksum:
        raise DamagedError("an array is damaged")
    return array


def _parse(raw: bytes, token_ids: Any, identity: str) -> Head:
    """Every value of its type, or DamagedError: a checksum is no signature."""
    try:
        found = json.loads(raw.decode())
        if found["identity"] != identity:
            raise DamagedError("it was computed by something else")
        sections = tuple(_section(*section) for section in found["arrays"])
        header = Header(
            key=_exactly(bytes.fromhex(found["key"]), KEY_BYTES),
            parent=_exactly(bytes.fromhex(found["parent"]), KEY_BYTES),
            kind=_kind(found["kind"]),
            token_ids=token_ids,
            numbers=_numbers(found["numbers"]),
            nbytes=sum(section.nbytes for section in sections),
        )
        is_first = found["is_first"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedError("its head makes no sense") from None
    if type(is_first) is not bool or len({section.name for section in sections}) < len(sections):
        raise DamagedError("its head makes no sense")
    if header.key != record_key(header.parent, header.kind, header.token_ids):
        raise DamagedError("its key is not that of its tokens")
    return Head(header, is_first, sections)


def _section(name: Any, nbytes: Any, checksum: Any) -> Section:
    return Section(_text(name), _number(nbytes, 0), _exactly(bytes.fromhex(checksum), CHECKSUM_BYTES))


def _numbers(found: Any) -> Mapping[str, tuple[int, ...]]:
    if type(found) is not dict or any(type(values) is not list for values in found.values()):
        raise TypeError
    return {_text(name): tuple(_number(value) for value in values) for name, values in found.items()}


def _kind(value: Any) -> Kind:
    if value == "blocks":
        return "blocks"
    if value == "snapshot":
        return "snapshot"
    raise ValueError


def _number(value: Any, least: int = -(1 << 63)) -> int:
    if type(value) is not int or not least <= value < 1 << 63:
        raise TypeError
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    return value


def _exactly(value: bytes, length: int) -> bytes:
    if len(value) != length:
        raise ValueError
    return value


def _checksum(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=CHECKSUM_BYTES).digest()


def _demand_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise DamagedError("it is no regular file")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _unfollowed(path: str, flags: int) -> int:
    # Without O_NONBLOCK a FIFO that took the file's place would wait for a writer.
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
