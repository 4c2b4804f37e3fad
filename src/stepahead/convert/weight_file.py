"""One safetensors file: which tensors it has and where, and reading pieces of them.

Layout: u64 length of the header, the header (JSON: name -> dtype, shape, data_offsets), the data. Every claim of the
header is compared with the size of the file before it is believed. Pieces are read, not mapped: what is read leaves
with its buffer, and a file that shrinks meanwhile is an error, not a signal. Must not know: what tensors mean.
"""

import math
import os
import stat
import struct
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stepahead.convert.json_file import parse_object
from stepahead.errors import ConfigError, ModelFormatError, UnsupportedModelError

Bytes = npt.NDArray[np.uint8]

MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own library
MAX_DIMS = 8
POINTER_MARK = b"version https://git-lfs"
# Bytes of one element of what weights are stored as. The format has more.
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1}
_OTHER_ITEM_BYTES = {"F64": 8, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True, slots=True, eq=False)
class WeightTensor:
    """A tensor in a file. offset: of its first byte from the start of the file."""

    file: "WeightFile"
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def require_numbers(self) -> None:
        """Refuse a dtype that is not one of ITEM_BYTES."""
        if self.dtype not in ITEM_BYTES:
            raise UnsupportedModelError(
                f"{self.file.path}: tensor {clip(self.name)} is stored as {self.dtype[:40]}; "
                f"readable are {', '.join(ITEM_BYTES)}"
            )

    def read(self, start: int, stop: int) -> Bytes:
        """Bytes [start, stop) of it."""
        assert 0 <= start <= stop <= self.nbytes
        return self.file.read(self.offset + start, stop - start)


class WeightFile:
    """An open file. tensors: name -> WeightTensor, in the header's order."""

    def __init__(self, path: Path, file: BufferedReader, size: int) -> None:
        self.path = path
        self.size = size
        self._file = file
        self.tensors: dict[str, WeightTensor] = {}

    @classmethod
    def open(cls, path: Path) -> "WeightFile":
        """ConfigError: the path; ModelFormatError: the content; file, place and fault are named."""
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise ConfigError(f"{path}: is not a regular file")
            file = path.open("rb")
        except FileNotFoundError:
            raise ConfigError(f"{path}: is missing; the checkpoint is incomplete, download this file") from None
        except OSError as error:
            raise ConfigError(f"{path}: cannot be opened: {error.strerror or error}") from None
        try:
            found = cls(path, file, os.fstat(file.fileno()).st_size)
            found._read_header()
        except BaseException:
            file.close()
            raise
        return found

    def read(self, offset: int, nbytes: int) -> Bytes:
        """`nbytes` bytes from `offset` on, writable and the caller's own."""
        buffer = np.empty(nbytes, np.uint8)
        try:
            self._file.seek(offset)
            found = self._file.readinto(buffer.data) if nbytes else 0
        except OSError as error:
            raise ModelFormatError(f"{self.path}: byte {offset}: cannot be read: {error.strerror or error}") from None
        if found != nbytes:
            raise ModelFormatError(f"{self.path}: byte {offset}: {nbytes} bytes expected, {found} found; it was cut")
        return buffer

    def close(self) -> None:
        self._file.close()

    def _read_header(self) -> None:
        if self.size < 8:
            raise self._fault(f"has {self.size} bytes, too few for a safetensors file")
        start = self.read(0, min(len(POINTER_MARK), self.size)).tobytes()
        if start == POINTER_MARK:
            raise self._fault("is the pointer that Git LFS leaves in place of a file; run git lfs pull")
        nbytes = struct.unpack("<Q", start[:8])[0]
        if nbytes > min(MAX_HEADER_BYTES, self.size - 8):
            raise self._fault(
                f"claims a header of {nbytes} bytes, but has {self.size} in all (limit {MAX_HEADER_BYTES}); "
                "it is not a safetensors file, or damaged"
            )
        header = parse_object(self.read(8, nbytes).tobytes(), f"{self.path}: the header")
        for name, entry in header.items():
            if name != "__metadata__":
                self.tensors[name] = self._tensor(name, entry, 8 + nbytes)
        self._check_places(8 + nbytes)

    def _tensor(self, name: str, entry: Any, data_start: int) -> WeightTensor:
        what = f"tensor {clip(name)}"
        if not isinstance(entry, dict):
            raise self._fault(f"{what}: its entry is a {type(entry).__name__}, expected an object")
        dtype, shape, offsets = entry.get("dtype"), _sizes(entry.get("shape")), _sizes(entry.get("data_offsets"))
        if not isinstance(dtype, str):
            raise self._fault(f"{what}: no dtype")
        if shape is None or len(shape) > MAX_DIMS:
            raise self._fault(f"{what}: shape {clip(entry.get('shape'))} is not a list of at most {MAX_DIMS} sizes")
        if offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise self._fault(f"{what}: data_offsets {clip(entry.get('data_offsets'))} are not two rising numbers")
        start, end = offsets
        if data_start + end > self.size:
            raise self._fault(
                f"{what} ends at byte {data_start + end}, but the file has {self.size}; the download is incomplete"
            )
        item = ITEM_BYTES.get(dtype) or _OTHER_ITEM_BYTES.get(dtype)
        if item is not None and math.prod(shape) * item != end - start:
            needed = math.prod(shape) * item
            raise self._fault(f"{what}: {dtype} of shape {shape} takes {needed} bytes, not {end - start}")
        return WeightTensor(self, name, dtype, tuple(shape), data_start + start, end - start)

    def _check_places(self, data_start: int) -> None:
        """Tensors lie one behind the other and fill the file, as the format demands."""
        end, last = data_start, "the header"
        for tensor in sorted(self.tensors.values(), key=lambda tensor: (tensor.offset, tensor.nbytes)):
            if tensor.offset < end:
                raise self._fault(f"tensor {clip(tensor.name)} overlaps {last}")
            if tensor.offset > end:
                raise self._fault(
                    f"{tensor.offset - end} bytes between {last} and tensor {clip(tensor.name)} are nobody's"
                )
            end, last = tensor.offset + tensor.nbytes, f"tensor {clip(tensor.name)}"
        if end != self.size:
            raise self._fault(f"goes on for {self.size - end} bytes after {last}; it is not what was uploaded")

    def _fault(self, message: str) -> ModelFormatError:
        return ModelFormatError(f"{self.path}: {message}")


def clip(value: object) -> str:
    """A value from a file as an error shows it: quoted, and not longer than a line."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}…"


def _sizes(values: Any) -> list[int] | None:
    if isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 48 for value in values):
        return values
    return None
