"""Matrices that were made of a model's files, instead of the files' own."""

from collections.abc import Callable, Collection
from pathlib import Path

from stepahead.backends.base import ON_HOST
from stepahead.gguf import GGUFFile
from stepahead.gguf.block_quants import Bytes
from stepahead.gguf.quants import QuantType
from stepahead.models.weights import FileSource

Matrices = dict[str, tuple[Bytes, str, QuantType]]
"""By the tensor's name: bytes, row_bytes in the last axis; layout; type."""


class MadeSource(FileSource):
    """What was made, and the files' own bytes for the rest."""

    def __init__(self, made: dict[GGUFFile, Matrices]) -> None:
        self._made = made

    def matrix(self, file: GGUFFile, name: str, parts: tuple[tuple[int, ...], ...]) -> tuple[Bytes, str, QuantType]:
        found = self._made[file].get(name) if file in self._made else None
        return super().matrix(file, name, parts) if found is None else found


class HostSource(FileSource):
    """Another source, and matrices of a file that stay in the host's memory: repacked, or the file's own bytes."""

    def __init__(self, source: FileSource, file: GGUFFile, on_host: Collection[str], repacked: Matrices) -> None:
        self._source = source
        self._file = file
        self._on_host = on_host
        self._repacked = repacked

    def matrix(self, file: GGUFFile, name: str, parts: tuple[tuple[int, ...], ...]) -> tuple[Bytes, str, QuantType]:
        if file is not self._file or name not in self._on_host:
            return self._source.matrix(file, name, parts)
        data, layout, type = self._repacked.get(name) or super().matrix(file, name, parts)
        return data, f"{ON_HOST}{layout}", type


class ToldSource(FileSource):
    """Another source, and somebody who hears how far loading has come: of weights that are copied, it takes time."""

    def __init__(
        self, source: FileSource, file: GGUFFile, heads: GGUFFile | None, on_load: Callable[[Path, int, int], None]
    ) -> None:
        self._source = source
        self._on_load = on_load
        self._path = file.path
        files = (file,) if heads is None or heads is file else (file, heads)
        self._total = sum(info.nbytes for each in files for info in each.tensors.values() if len(info.shape) > 1)
        self._done = 0

    def matrix(self, file: GGUFFile, name: str, parts: tuple[tuple[int, ...], ...]) -> tuple[Bytes, str, QuantType]:
        """It is copied when this has returned: what is told is what was asked for before."""
        self._on_load(self._path, self._done, self._total)
        self._done += file.tensors[name].nbytes
        return self._source.matrix(file, name, parts)
