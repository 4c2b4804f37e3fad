"""The file of repacked weights: which tensors of which model, and where; checked before a byte of it is believed.

Layout: MAGIC, u64 length of the index, the index (JSON, UTF-8), padding to a page; then tensors, each from a page on.
The file is machine-made and can be made again, so that any doubt is answered by UnusableError and not by repair.
Trusts that a file does not shrink while it is mapped. Must not know: backends, what a layout means.
"""

import json
import mmap
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from stepahead.gguf import FileIdentity, TensorInfo
from stepahead.gguf.block_quants import Bytes
from stepahead.mapped_files import note_mapped

MAGIC = b"SAREPACK"
VERSION = 1
PAGE = 4096
MAX_INDEX_BYTES = 4 << 20  # thirty thousand tensors
_LENGTH = struct.Struct("<Q")


class UnusableError(Exception):
    """Why a file is not used: it was made of something else, or is damaged."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor in the file."""

    name: str
    type: str
    shape: tuple[int, ...]
    layout: str
    offset: int  # from the first page after the index
    nbytes: int


@dataclass(frozen=True, slots=True)
class Index:
    """What a file holds."""

    sources: tuple[FileIdentity, ...]  # of the model, whether in one file or split
    nbytes: int  # of all tensors, with the padding between them
    entries: dict[str, Entry]

    @classmethod
    def plan(cls, sources: tuple[FileIdentity, ...], tensors: Iterable[tuple[TensorInfo, str]]) -> "Index":
        """For tensors in these layouts, in their order."""
        entries: dict[str, Entry] = {}
        end = 0
        for info, layout in tensors:
            entries[info.name] = Entry(info.name, info.type.name, info.shape, layout, end, info.nbytes)
            end += info.nbytes + -info.nbytes % PAGE
        return cls(sources, end, entries)


def write_index(file: BinaryIO, index: Index) -> None:
    """What comes before the tensors, padding included."""
    found = {
        "version": VERSION,
        "sources": [asdict(source) for source in index.sources],
        "nbytes": index.nbytes,
        "tensors": [asdict(entry) for entry in index.entries.values()],
    }
    raw = json.dumps(found).encode()
    if len(raw) > MAX_INDEX_BYTES:
        raise UnusableError(f"{len(index.entries)} tensors are more than its index can hold")
    head = MAGIC + _LENGTH.pack(len(raw)) + raw
    file.write(head + bytes(-len(head) % PAGE))


def pad(file: BinaryIO) -> None:
    """Up to the next page."""
    file.write(bytes(-file.tell() % PAGE))


def map_cache(path: Path, wanted: Index) -> dict[str, Bytes]:
    """The bytes of every wanted tensor, read-only views of the mapped file, which may hold more than is wanted.

    FileNotFoundError: there is none. UnusableError: there is one that must not be used.
    """
    try:
        mapping = _map(path)
        found, start = _read_index(mapping)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnusableError(error.strerror or str(error)) from None
    if found.sources != wanted.sources:
        raise UnusableError("it was made of another version of the model")
    if len(mapping) != start + found.nbytes:
        raise UnusableError(f"it has {len(mapping)} bytes where {start + found.nbytes} should be")
    data = np.frombuffer(mapping, np.uint8)
    return {entry.name: data[begin : begin + entry.nbytes] for entry, begin in _places(found, wanted, start)}


def _places(found: Index, wanted: Index, start: int) -> Iterator[tuple[Entry, int]]:
    """Each wanted tensor and its first byte in the file, which is checked to lie there."""
    for entry in wanted.entries.values():
        there = found.entries.get(entry.name)
        if there is None or _what(there) != _what(entry):
            raise UnusableError(f"it has no tensor {entry.name} as it is wanted")
        if there.offset % PAGE or there.offset + there.nbytes > found.nbytes:
            raise UnusableError(f"tensor {entry.name} does not lie in it")
        yield entry, start + there.offset


def _what(entry: Entry) -> tuple[object, ...]:
    return entry.name, entry.type, entry.shape, entry.layout, entry.nbytes


def _map(path: Path) -> mmap.mmap:
    # Asked before opening: opening a FIFO waits for a writer, and a device may do anything.
    if not stat.S_ISREG(path.stat().st_mode):
        raise UnusableError("it is no regular file")
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < PAGE:
            raise UnusableError("it is too short")
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    note_mapped(mapping, path)
    return mapping


def _read_index(mapping: mmap.mmap) -> tuple[Index, int]:
    """The index, and where the tensors begin."""
    if mapping[: len(MAGIC)] != MAGIC:
        raise UnusableError("it holds something else")
    head = len(MAGIC) + _LENGTH.size
    (length,) = _LENGTH.unpack(mapping[len(MAGIC) : head])
    if length > MAX_INDEX_BYTES or head + length > len(mapping):
        raise UnusableError(f"its index claims {length} bytes")
    try:
        found = json.loads(mapping[head : head + length].decode())
    except (ValueError, RecursionError):
        raise UnusableError("its index is damaged") from None
    end = head + length
    return _index(found), end + -end % PAGE


def _index(found: Any) -> Index:
    """Every value of its type, or UnusableError."""
    try:
        if _number(found["version"]) != VERSION:
            raise UnusableError(f"its format is version {found['version']}, this is {VERSION}")
        sources = tuple(
            FileIdentity(_number(s["nbytes"]), _number(s["mtime_ns"], -(1 << 63)), _text(s["header_hash"]))
            for s in found["sources"]
        )
        entries = [_entry(tensor) for tensor in found["tensors"]]
        return Index(sources, _number(found["nbytes"]), {entry.name: entry for entry in entries})
    except (KeyError, TypeError, IndexError):
        raise UnusableError("its index is damaged") from None


def _entry(tensor: Any) -> Entry:
    return Entry(
        name=_text(tensor["name"]),
        type=_text(tensor["type"]),
        shape=tuple(_number(size) for size in tensor["shape"]),
        layout=_text(tensor["layout"]),
        offset=_number(tensor["offset"]),
        nbytes=_number(tensor["nbytes"]),
    )


def _number(value: Any, least: int = 0) -> int:
    if type(value) is not int or not least <= value < 1 << 63:
        raise TypeError
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    return value
