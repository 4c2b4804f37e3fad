"""The header of one GGUF file: version, metadata, tensor infos, and the checks that make its tensors safe to touch.

Owns the layout up to the data section and TensorInfo. Must not know: what keys or tensors mean (except
`general.alignment`), split files, how bytes are mapped.

Layout (little-endian): "GGUF", u32 version, u64 tensors, u64 pairs; pairs of key, u32 type, value; infos of name,
u32 n_dims, u64 dims (fastest first), u32 ggml type, u64 offset; padding to the alignment; data.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepahead.errors import UnsupportedModelError
from stepahead.gguf.cursor import Cursor
from stepahead.gguf.metadata import DTYPES, MetadataValue, ValueType
from stepahead.gguf.quants import QuantType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
# Kernels rely on the lower bound (the specification demands a multiple of 8); the upper one only keeps nonsense out.
MIN_ALIGNMENT, MAX_ALIGNMENT = 8, 1 << 20
MAX_DIMS = 4
# ggml counts elements and bytes in int64.
MAX_BYTES = (1 << 63) - 1
# Smallest pair (empty key, type, one byte) and smallest info (empty name, one dim): what a claimed count must fit.
MIN_PAIR_BYTES, MIN_INFO_BYTES = 8 + 4 + 1, 8 + 4 + 8 + 4 + 8

_QUANT_TYPES = {quant_type.id: quant_type for quant_type in QuantType}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies. shape is numpy's order (the file's dims reversed): (out, in), experts (E, out, in)."""

    name: str
    shape: tuple[int, ...]
    type: QuantType
    offset: int  # of the first byte, from the start of its file
    nbytes: int
    shard: int  # 0 unless the model is split

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, the last axis."""
        return self.type.row_bytes(self.shape[-1])


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of one file says; every tensor lies inside the file and no two overlap."""

    version: int
    metadata: dict[str, MetadataValue]
    value_types: dict[str, ValueType]  # of the value, or of an array's elements
    alignment: int
    tensors: dict[str, TensorInfo]
    nbytes: int  # of the header itself, up to the padding before the data


def read_header(cursor: Cursor, shard: int = 0) -> Header:
    """Read and check the header. ModelFormatError: damage; UnsupportedModelError: sound, but not for us."""
    version = _read_version(cursor)
    num_tensors = cursor.count(MIN_INFO_BYTES, "tensor count")
    num_pairs = cursor.count(MIN_PAIR_BYTES, "metadata count")
    metadata: dict[str, MetadataValue] = {}
    value_types: dict[str, ValueType] = {}
    for index in range(num_pairs):
        start, key = cursor.position, cursor.name(f"metadata key {index} of {num_pairs}")
        if key in metadata:
            cursor.position = start
            raise cursor.fault(f"metadata key {clip(key)}", "appears twice")
        value_types[key], metadata[key] = _read_value(cursor, f"metadata key {clip(key)}")
    alignment = _alignment(cursor, metadata, value_types)
    infos = [_read_info(cursor, index, num_tensors) for index in range(num_tensors)]
    nbytes = cursor.position
    tensors = _place(cursor, infos, alignment, shard)
    return Header(version, metadata, value_types, alignment, tensors, nbytes)


def clip(name: str) -> str:
    """A name out of a file, quoted, escaped and short enough for one line."""
    return repr(name if len(name) <= 80 else name[:77] + "...")


def _read_version(cursor: Cursor) -> int:
    magic = cursor.take(4, "magic") if cursor.size >= 4 else bytes(cursor.buffer[:])
    if magic != MAGIC:
        hint = " (a git-lfs pointer: fetch the file itself with `git lfs pull`)" if magic == b"vers" else ""
        cursor.position = 0
        raise cursor.fault("magic", f"not a GGUF file: starts with {magic!r} instead of {MAGIC!r}{hint}")
    version = cursor.u32("version")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        what = "a big-endian file" if 0 < swapped <= max(VERSIONS) else f"GGUF version {version}"
        raise UnsupportedModelError(
            f"{cursor.path}: byte 4: {what}, but only little-endian files of version 2 or 3 are read; convert it again"
        )
    return version


def _read_value(cursor: Cursor, what: str) -> tuple[ValueType, MetadataValue]:
    value_type = _read_type(cursor, what)
    if value_type is ValueType.STRING:
        return value_type, cursor.string(what)
    if value_type is not ValueType.ARRAY:
        return value_type, _read_numbers(cursor, value_type, 1, what).item()
    element_type = _read_type(cursor, f"{what}, element type")
    if element_type is ValueType.ARRAY:
        raise UnsupportedModelError(f"{cursor.path}: byte {cursor.position}: {what}: arrays of arrays are not read")
    if element_type is ValueType.STRING:
        return element_type, cursor.strings(cursor.count(8, f"{what}, length"), what)
    count = cursor.count(DTYPES[element_type].itemsize, f"{what}, length")
    return element_type, _read_numbers(cursor, element_type, count, what)


def _read_type(cursor: Cursor, what: str) -> ValueType:
    number = cursor.u32(what)
    try:
        return ValueType(number)
    except ValueError:
        cursor.position -= 4
        raise cursor.fault(what, f"unknown value type {number}") from None


def _read_numbers(cursor: Cursor, value_type: ValueType, count: int, what: str) -> Any:
    if value_type is ValueType.BOOL:
        values = cursor.numbers(DTYPES[ValueType.U8], count, what)
        if values.max(initial=0) > 1:
            raise cursor.fault(what, f"a bool is 0 or 1, found {values.max()}")
        return values.view(np.bool_)
    return cursor.numbers(DTYPES[value_type], count, what)


def _alignment(cursor: Cursor, metadata: dict[str, MetadataValue], value_types: dict[str, ValueType]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(value) is not int or value_types.get("general.alignment", ValueType.U32) is not ValueType.U32:
        raise cursor.fault("metadata key 'general.alignment'", "must be one U32")
    if not MIN_ALIGNMENT <= value <= MAX_ALIGNMENT or value & (value - 1):
        limits = f"a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}"
        raise cursor.fault("metadata key 'general.alignment'", f"{value} is not {limits}")
    return value


@dataclass(frozen=True, slots=True)
class _RawInfo:
    """A tensor info as it stands in the file, at byte `position`."""

    position: int
    name: str
    shape: tuple[int, ...]
    type: QuantType
    nbytes: int
    offset: int  # from the start of the data section


def _read_info(cursor: Cursor, index: int, num_tensors: int) -> _RawInfo:
    start, name = cursor.position, cursor.name(f"tensor {index} of {num_tensors}")
    what = f"tensor {clip(name)}"
    num_dims = cursor.u32(what)
    if not 1 <= num_dims <= MAX_DIMS:
        raise cursor.fault(what, f"{num_dims} dimensions, expected 1 to {MAX_DIMS}")
    dims = [cursor.u64(what) for _ in range(num_dims)]
    type_id = cursor.u32(what)
    offset = cursor.u64(what)
    quant_type = _QUANT_TYPES.get(type_id)
    if quant_type is None:
        known = ", ".join(quant_type.name for quant_type in QuantType)
        raise UnsupportedModelError(f"{cursor.path}: byte {start}: {what}: ggml type {type_id} is not one of {known}")
    shape = tuple(reversed(dims))
    if not all(dims) or math.prod(dims) > MAX_BYTES:
        raise cursor.fault(what, f"shape {shape} is empty or exceeds 2^63 elements")
    if shape[-1] % quant_type.block_size:
        blocks = f"{quant_type.name} blocks of {quant_type.block_size}"
        raise cursor.fault(what, f"rows of {shape[-1]} elements are not whole {blocks}")
    return _RawInfo(start, name, shape, quant_type, quant_type.nbytes(shape), offset)


def _place(cursor: Cursor, infos: list[_RawInfo], alignment: int, shard: int) -> dict[str, TensorInfo]:
    """Give every tensor its place in the file; refuse duplicates, misalignment, overlap, a truncated file."""
    data_start = cursor.position + -cursor.position % alignment
    tensors: dict[str, TensorInfo] = {}
    for info in infos:
        cursor.position = info.position
        what = f"tensor {clip(info.name)}"
        if info.name in tensors:
            raise cursor.fault(what, "appears twice")
        if info.offset % alignment:
            raise cursor.fault(what, f"offset {info.offset} is not a multiple of the alignment {alignment}")
        start = data_start + info.offset
        if start + info.nbytes > cursor.size:
            place = f"bytes {start} to {start + info.nbytes}"
            raise cursor.fault(what, f"lies at {place}, but the file has {cursor.size} (truncated?)")
        tensors[info.name] = TensorInfo(info.name, info.shape, info.type, start, info.nbytes, shard)
    ordered = sorted(tensors.values(), key=lambda tensor: tensor.offset)
    for before, after in itertools.pairwise(ordered):
        if before.offset + before.nbytes > after.offset:
            cursor.position = after.offset
            raise cursor.fault(f"tensor {clip(after.name)}", f"overlaps tensor {clip(before.name)}")
    return tensors
