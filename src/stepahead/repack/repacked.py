"""Makes the repacked matrices of one model file: in memory, mapped from a cache file, or written to one first.

Owns the pieces in which this is done, and the room on the disk. Must not know: models, which matrices are wanted.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stepahead.backends.base import PANEL_ROWS, Backend
from stepahead.gguf import GGUFFile
from stepahead.gguf.block_quants import Bytes
from stepahead.repack.cache_file import PAGE, Entry, Index, UnusableError, map_cache, pad, write_index
from stepahead.repack.folders import AUTO, MIN_FREE_BYTES, cache_paths, free_bytes, is_writable
from stepahead.repack.temporary import remove_abandoned, replacing

log = logging.getLogger("stepahead")

MIN_FILE_BYTES = 256 << 20
"""Fewer bytes are repacked in memory at each start, in a tenth of a second: no file is worth it."""

PIECE_BYTES = 64 << 20
"""What is repacked at once: the memory that writing takes, however large a tensor is."""

OnRepack = Callable[[Path, int, int], None]
"""Called with (file, bytes done, bytes in all): before the first byte is written, then after each piece."""


@dataclass(frozen=True, slots=True, eq=False)
class Repacked:
    """The matrices of one model file that were repacked."""

    path: Path | None  # None: in memory
    nbytes: int
    matrices: dict[str, tuple[Bytes, str]]  # name -> bytes, row_bytes in the last axis, and layout

    @classmethod
    def of(cls, file: GGUFFile, index: Index, data: dict[str, Bytes], path: Path | None) -> "Repacked":
        matrices = {
            name: (data[name].reshape(-1, file.tensors[name].row_bytes), entry.layout)
            for name, entry in index.entries.items()
        }
        return cls(path, sum(entry.nbytes for entry in index.entries.values()), matrices)

    def describe(self) -> str:
        return f"{gigabytes(self.nbytes)} repacked in {'memory' if self.path is None else self.path}"


def repack(file: GGUFFile, layouts: dict[str, str], backend: Backend, choice: str, on_repack: OnRepack) -> Repacked:
    """`layouts` of tensors by name; choice: "auto" or a folder. Raises OSError and UnusableError: it cannot be done."""
    index = Index.plan(file.identity(), ((file.tensors[name], layout) for name, layout in layouts.items()))
    if index.nbytes < MIN_FILE_BYTES:
        return _in_memory(file, index, backend)
    paths = cache_paths(file.path, choice)
    for path in paths:
        try:
            return Repacked.of(file, index, map_cache(path, index), path)
        except FileNotFoundError:
            continue
        except UnusableError as error:
            log.info("%s is not used: %s", path, error)
    chosen = next((path for path in paths if is_writable(path.parent)), None)
    if chosen is None:
        raise UnusableError(f"{' and '.join(str(path.parent) for path in paths)} cannot be written to")
    _write(chosen, file, index, backend, on_repack)
    return Repacked.of(file, index, map_cache(chosen, index), chosen)


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


def _in_memory(file: GGUFFile, index: Index, backend: Backend) -> Repacked:
    memory = _new_pages(index.nbytes)
    data = {name: memory[entry.offset : entry.offset + entry.nbytes] for name, entry in index.entries.items()}
    for entry in index.entries.values():
        for first, last in _pieces(file, entry):
            row_bytes = file.tensors[entry.name].row_bytes
            _repack_rows(file, entry, backend, first, last, data[entry.name][first * row_bytes : last * row_bytes])
    return Repacked.of(file, index, data, None)


def _new_pages(nbytes: int) -> Bytes:
    """Memory that begins on a page, as that of a mapped file does."""
    memory = np.empty(nbytes + PAGE, np.uint8)
    start = -memory.ctypes.data % PAGE
    return memory[start : start + nbytes]


def _write(path: Path, file: GGUFFile, index: Index, backend: Backend, on_repack: OnRepack) -> None:
    if remove_abandoned(path):
        raise UnusableError(f"another process is writing {path} just now")
    _demand_room(path, index.nbytes)
    on_repack(path, 0, index.nbytes)
    log.warning(
        "writing %s of repacked weights to %s: once, the next start maps them; --repack never (repack=) does without",
        gigabytes(index.nbytes),
        path,
    )
    buffer = np.empty(_buffer_bytes(file, index), np.uint8)
    with replacing(path, mode=file.path.stat().st_mode & 0o666 | 0o600) as out:
        write_index(out, index)
        start = out.tell()
        for entry in index.entries.values():
            row_bytes = file.tensors[entry.name].row_bytes
            for first, last in _pieces(file, entry):
                piece = buffer[: (last - first) * row_bytes]
                _repack_rows(file, entry, backend, first, last, piece)
                out.write(piece.data)
                on_repack(path, out.tell() - start, index.nbytes)
            pad(out)
    on_repack(path, index.nbytes, index.nbytes)


def _demand_room(path: Path, nbytes: int) -> None:
    # What is there under this name is of no use any more, and has its place back at once.
    path.unlink(missing_ok=True)
    free = free_bytes(path.parent)
    if free < nbytes + MIN_FREE_BYTES:
        raise UnusableError(
            f"{gigabytes(nbytes)} do not fit into {path.parent}, where {gigabytes(free)} are free and "
            f"{gigabytes(MIN_FREE_BYTES)} stay so"
        )


def _pieces(file: GGUFFile, entry: Entry) -> Iterator[tuple[int, int]]:
    """Rows [first, last) of about PIECE_BYTES, in whole panels."""
    row_bytes = file.tensors[entry.name].row_bytes
    num_rows, step = entry.nbytes // row_bytes, _piece_rows(row_bytes)
    for first in range(0, num_rows, step):
        yield first, min(first + step, num_rows)


def _piece_rows(row_bytes: int) -> int:
    return max(PIECE_BYTES // row_bytes // PANEL_ROWS, 1) * PANEL_ROWS


def _buffer_bytes(file: GGUFFile, index: Index) -> int:
    """Of the largest piece."""
    widths = {file.tensors[name].row_bytes for name in index.entries}
    return max(_piece_rows(row_bytes) * row_bytes for row_bytes in widths)


def _repack_rows(file: GGUFFile, entry: Entry, backend: Backend, first: int, last: int, out: Bytes) -> None:
    info = file.tensors[entry.name]
    rows = file.data(entry.name).reshape(-1, info.row_bytes)[first:last]
    backend.repack(rows, info.type, (last - first, info.shape[-1]), entry.layout, out)
    file.release(entry.name, first * info.row_bytes, last * info.row_bytes)
