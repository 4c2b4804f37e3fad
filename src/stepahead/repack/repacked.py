"""Makes the repacked matrices of one model file: in memory, mapped from a cache file, or written to one first.

Owns the pieces in which this is done, and the room on the disk, for everything that is made of a model file's weights.
Must not know: models, which matrices are wanted.
"""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stepahead.backends.base import PANEL_ROWS, Backend
from stepahead.gguf import GGUFFile
from stepahead.gguf.block_quants import Bytes
from stepahead.repack.cache_file import PAGE, Entry, Index, UnusableError, map_cache, pad, write_index
from stepahead.repack.folders import AUTO, MIN_FREE_BYTES, SUFFIX, cache_paths, free_bytes, is_writable
from stepahead.repack.source import Matrices
from stepahead.repack.temporary import remove_abandoned, replacing

log = logging.getLogger("stepahead")

MIN_FILE_BYTES = 256 << 20
"""Fewer bytes are repacked in memory at each start, in a tenth of a second: no file is worth it."""

PIECE_BYTES = 64 << 20
"""What is repacked at once: the memory that writing takes, however large a tensor is."""

OnRepack = Callable[[Path, int, int], None]
"""Called with (file, bytes done, bytes in all): before the first byte is written, then after each piece."""

Fill = Callable[[Entry, int, int, Bytes], None]
"""Makes the rows [first, last) of an entry, into these bytes."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Of cache files: one model may have one of each."""

    what: str
    suffix: str


REPACKED = Kind("repacked weights", SUFFIX)


@dataclass(frozen=True, slots=True, eq=False)
class Repacked:
    """The matrices of one model file that were repacked."""

    path: Path | None  # None: in memory
    nbytes: int
    matrices: Matrices

    @classmethod
    def of(cls, file: GGUFFile, index: Index, data: dict[str, Bytes], path: Path | None) -> "Repacked":
        matrices = {
            name: (data[name].reshape(-1, file.tensors[name].row_bytes), entry.layout, file.tensors[name].type)
            for name, entry in index.entries.items()
        }
        return cls(path, sum(entry.nbytes for entry in index.entries.values()), matrices)

    def describe(self) -> str:
        return f"{gigabytes(self.nbytes)} repacked in {'memory' if self.path is None else self.path}"


def repack(file: GGUFFile, layouts: dict[str, str], backend: Backend, choice: str, on_repack: OnRepack) -> Repacked:
    """`layouts` of tensors by name; choice: "auto" or a folder. Raises OSError and UnusableError: it cannot be done."""
    index = Index.plan(file.identity(), ((file.tensors[name], layout) for name, layout in layouts.items()))

    def fill(entry: Entry, first: int, last: int, out: Bytes) -> None:
        _repack_rows(file, entry, backend, first, last, out)

    if index.nbytes < MIN_FILE_BYTES:
        return Repacked.of(file, index, make_in_memory(index, fill), None)
    data, path = make_or_map(file, index, fill, choice, REPACKED, on_repack)
    return Repacked.of(file, index, data, path)


def make_in_memory(index: Index, fill: Fill) -> dict[str, Bytes]:
    """The bytes of every entry, by name."""
    memory = _new_pages(index.nbytes)
    data = {name: memory[entry.offset : entry.offset + entry.nbytes] for name, entry in index.entries.items()}
    for entry in index.entries.values():
        row_bytes = _row_bytes(entry)
        for first, last in _pieces(entry):
            fill(entry, first, last, data[entry.name][first * row_bytes : last * row_bytes])
    return data


def make_or_map(
    file: GGUFFile, index: Index, fill: Fill, choice: str, kind: Kind, on_write: OnRepack
) -> tuple[dict[str, Bytes], Path]:
    """The bytes of every entry from a cache file, written first if need be. Raises OSError and UnusableError."""
    paths = cache_paths(file.path, choice, kind.suffix)
    for path in paths:
        try:
            return map_cache(path, index), path
        except FileNotFoundError:
            continue
        except UnusableError as error:
            log.info("%s is not used: %s", path, error)
    chosen = next((path for path in paths if is_writable(path.parent)), None)
    if chosen is None:
        raise UnusableError(f"{' and '.join(str(path.parent) for path in paths)} cannot be written to")
    _write(chosen, file, index, fill, kind, on_write)
    return map_cache(chosen, index), chosen


def find_repacked(file: GGUFFile, layouts: dict[str, str], choice: str) -> Matrices:
    """Those matrices in those layouts, from a cache file that has all of them; none, if there is no such file."""
    index = Index.plan(file.identity(), ((file.tensors[name], layout) for name, layout in layouts.items()))
    for path in cache_paths(file.path, choice, REPACKED.suffix):
        try:
            return Repacked.of(file, index, map_cache(path, index), path).matrices
        except (FileNotFoundError, UnusableError):
            continue
    return {}


def find_cache(file: GGUFFile) -> Path | None:
    """The cache file that was made of this model as it is, whatever it holds."""
    anything = Index.plan(file.identity(), ())
    for path in cache_paths(file.path, AUTO):
        try:
            map_cache(path, anything)
        except (FileNotFoundError, UnusableError):
            continue
        return path
    return None


def gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB"


def _new_pages(nbytes: int) -> Bytes:
    """Memory that begins on a page, as that of a mapped file does."""
    memory = np.empty(nbytes + PAGE, np.uint8)
    start = -memory.ctypes.data % PAGE
    return memory[start : start + nbytes]


def _write(path: Path, file: GGUFFile, index: Index, fill: Fill, kind: Kind, on_write: OnRepack) -> None:
    if remove_abandoned(path):
        raise UnusableError(f"another process is writing {path} just now")
    _demand_room(path, index.nbytes)
    on_write(path, 0, index.nbytes)
    log.log(
        logging.WARNING if index.nbytes >= MIN_FILE_BYTES else logging.INFO,
        "writing %s of %s to %s: once, the next start maps them; --repack never (repack=) does without",
        gigabytes(index.nbytes),
        kind.what,
        path,
    )
    buffer = np.empty(_buffer_bytes(index), np.uint8)
    with replacing(path, mode=file.path.stat().st_mode & 0o666 | 0o600) as out:
        write_index(out, index)
        start = out.tell()
        for entry in index.entries.values():
            row_bytes = _row_bytes(entry)
            for first, last in _pieces(entry):
                piece = buffer[: (last - first) * row_bytes]
                fill(entry, first, last, piece)
                out.write(piece.data)
                on_write(path, out.tell() - start, index.nbytes)
            pad(out)
    on_write(path, index.nbytes, index.nbytes)


def _demand_room(path: Path, nbytes: int) -> None:
    # What is there under this name is of no use any more, and has its place back at once.
    path.unlink(missing_ok=True)
    free = free_bytes(path.parent)
    if free < nbytes + MIN_FREE_BYTES:
        raise UnusableError(
            f"{gigabytes(nbytes)} do not fit into {path.parent}, where {gigabytes(free)} are free and "
            f"{gigabytes(MIN_FREE_BYTES)} stay so"
        )


def _row_bytes(entry: Entry) -> int:
    return entry.nbytes // math.prod(entry.shape[:-1])


def _pieces(entry: Entry) -> Iterator[tuple[int, int]]:
    """Rows [first, last) of about PIECE_BYTES, in whole panels."""
    num_rows, step = math.prod(entry.shape[:-1]), _piece_rows(_row_bytes(entry))
    for first in range(0, num_rows, step):
        yield first, min(first + step, num_rows)


def _piece_rows(row_bytes: int) -> int:
    return max(PIECE_BYTES // row_bytes // PANEL_ROWS, 1) * PANEL_ROWS


def _buffer_bytes(index: Index) -> int:
    """Of the largest piece."""
    return max(_piece_rows(width) * width for width in map(_row_bytes, index.entries.values()))


def _repack_rows(file: GGUFFile, entry: Entry, backend: Backend, first: int, last: int, out: Bytes) -> None:
    info = file.tensors[entry.name]
    rows = file.data(entry.name).reshape(-1, info.row_bytes)[first:last]
    backend.repack(rows, info.type, (last - first, info.shape[-1]), entry.layout, out)
    file.release(entry.name, first * info.row_bytes, last * info.row_bytes)
