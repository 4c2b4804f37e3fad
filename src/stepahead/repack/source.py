"""Matrices that were made of a model's files, instead of the files' own."""

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
