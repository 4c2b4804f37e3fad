"""A bounds-checked walk over the bytes of a file.

Owns reading of primitives and the wording of "it ends here". Must not know what the bytes mean beyond numbers and
strings. Every length and count is compared with the bytes that remain before anything of that size is allocated.
"""

import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stepahead.errors import ModelFormatError

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
# Longest metadata key or tensor name that the GGUF specification allows, in bytes.
MAX_NAME_BYTES = 65535


class Cursor:
    """Position in `buffer`, which is the file at `path`. Reads advance it; any fault is a ModelFormatError."""

    def __init__(self, buffer: mmap.mmap | bytes, path: Path) -> None:
        self.buffer = buffer
        self.path = path
        self.position = 0
        self.size = len(buffer)

    @property
    def remaining(self) -> int:
        return self.size - self.position

    def fault(self, what: str, message: str) -> ModelFormatError:
        """The error to raise: file, place, fault."""
        return ModelFormatError(f"{self.path}: byte {self.position}: {what}: {message}")

    def demand(self, nbytes: int, what: str) -> None:
        """Check that `nbytes` more bytes exist."""
        if nbytes > self.remaining:
            raise self.fault(what, f"needs {nbytes} bytes, but the file ends after {self.remaining}")

    def take(self, nbytes: int, what: str) -> bytes:
        self.demand(nbytes, what)
        start, self.position = self.position, self.position + nbytes
        return self.buffer[start : self.position]

    def u32(self, what: str) -> int:
        return int(_U32.unpack(self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack(self.take(8, what))[0])

    def count(self, min_bytes: int, what: str) -> int:
        """A u64 count of items of at least `min_bytes` bytes each."""
        start, value = self.position, self.u64(what)
        if value * min_bytes > self.remaining:
            message = f"{value} items of at least {min_bytes} bytes each, but {self.remaining} bytes remain"
            self.position = start
            raise self.fault(what, message)
        return value

    def string(self, what: str) -> str:
        length = self.count(1, what)
        start, raw = self.position, self.take(length, what)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            self.position = start + error.start
            raise self.fault(what, f"not valid UTF-8 ({error.reason})") from None

    def name(self, what: str) -> str:
        """A metadata key or a tensor name."""
        start, name = self.position, self.string(what)
        if self.position - start - 8 > MAX_NAME_BYTES:
            self.position = start
            raise self.fault(what, f"{len(name)} characters, more than the {MAX_NAME_BYTES} bytes of the format")
        return name

    def numbers(self, dtype: np.dtype[Any], count: int, what: str) -> npt.NDArray[Any]:
        """`count` numbers as a read-only copy, (count,)."""
        self.demand(count * dtype.itemsize, what)
        values = np.frombuffer(self.buffer, dtype, count, self.position).copy()
        values.setflags(write=False)
        self.position += count * dtype.itemsize
        return values

    def strings(self, count: int, what: str) -> list[str]:
        """`count` strings. The hot loop of opening a model (a vocabulary and its merges): locals, no calls of ours."""
        buffer, position, size, unpack = self.buffer, self.position, self.size, _U64.unpack_from
        found: list[str] = []
        try:
            for _ in range(count):
                start = position + 8
                end = start + unpack(buffer, position)[0]
                if end > size:
                    break
                found.append(buffer[start:end].decode())
                position = end
        except UnicodeDecodeError as error:
            self.position = start + error.start
            raise self.fault(f"{what}, string {len(found)}", f"not valid UTF-8 ({error.reason})") from None
        except struct.error:
            pass  # fewer than the 8 bytes of a length: the same fault as below
        self.position = position
        if len(found) < count:
            # Read the faulty one again, slowly, for its words.
            self.string(f"{what}, string {len(found)} of {count}")
        return found
