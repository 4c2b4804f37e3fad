"""Writing GGUF files, whole or split.

Owns write_gguf, write_split_gguf and TensorData. A file appears under its name complete or not at all. Must not know:
architectures, which keys a model needs, how to choose a quantisation.
"""

import itertools
import os
import secrets
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from stepahead.errors import ConfigError
from stepahead.folder_sync import sync_folder
from stepahead.gguf.block_quants import Bytes
from stepahead.gguf.cursor import MAX_NAME_BYTES
from stepahead.gguf.file_range import BLOCK_BYTES, FileRange, OnBytes, copy_range
from stepahead.gguf.header import DEFAULT_ALIGNMENT, MAGIC, MAX_ALIGNMENT, MAX_DIMS, MIN_ALIGNMENT, VERSIONS
from stepahead.gguf.metadata import DTYPES, TypedValue, ValueType, typed
from stepahead.gguf.quantize import quantize
from stepahead.gguf.quants import QuantType
from stepahead.gguf.shard import shard_path

# Shard names have five digits, split.count is a U16.
MAX_SHARDS = 65535
PADDING_KEY = "stepahead.padding"
"""Of blanks that move the data by less than a block; belongs to the file that it is in, and is copied to no other."""
_PLAIN = {np.dtype(np.float32): QuantType.F32, np.dtype(np.float16): QuantType.F16}
_STRUCT_CODES = {
    ValueType.U8: "B",
    ValueType.I8: "b",
    ValueType.U16: "H",
    ValueType.I16: "h",
    ValueType.U32: "I",
    ValueType.I32: "i",
    ValueType.F32: "f",
    ValueType.BOOL: "?",
    ValueType.U64: "Q",
    ValueType.I64: "q",
    ValueType.F64: "d",
}


@dataclass(frozen=True, eq=False)
class TensorData:
    """A tensor to write, its bytes at hand or made when its turn comes.

    shape: numpy order, in elements (rows last).     data: uint8 of type.nbytes(shape) bytes, any shape; or a function
    without arguments that is called once, so that a model larger than memory can be written. It returns the bytes, or
    pieces of them in their order, so that a tensor larger than memory can be, too. Or a range of a file.
    """

    type: QuantType
    shape: tuple[int, ...]
    data: Bytes | FileRange | Callable[[], Bytes | Iterable[Bytes]]

    @classmethod
    def from_array(cls, values: npt.NDArray[Any], quant_type: QuantType | None = None) -> Self:
        """Quantize now. Without a type, float32 and float16 arrays stay what they are."""
        plain = _PLAIN.get(values.dtype)
        chosen = quant_type or plain
        if chosen is None:
            raise ConfigError(f"an array of {values.dtype} has no tensor type of its own; give one")
        if chosen is not plain:
            return cls(chosen, values.shape, quantize(values, chosen))
        # Verbatim: Inf and NaN pass.
        little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        return cls(chosen, values.shape, little.reshape(-1).view(np.uint8))


def write_gguf(
    path: str | Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, npt.NDArray[Any] | TensorData],
    *,
    alignment: int = DEFAULT_ALIGNMENT,
    version: int = 3,
    share: str | None = None,
    on_bytes: OnBytes | None = None,
) -> None:
    """Write a GGUF file; an existing one is replaced only once the new one is complete.

    metadata: values with inferred types (see metadata.typed) or TypedValues. tensors: float32 or float16 arrays, or
    TensorData, written in the mapping's order. `general.alignment` is added if alignment is not 32.
    share: a tensor that is a range of another file. The header is made longer (PADDING_KEY) until it lies as it does
    there, so that a file system can share its blocks, and those of its neighbours that are also neighbours there.
    on_bytes: told of the bytes of such tensors. ConfigError names the key or tensor that cannot be written; OSError is
    the disk's.
    """
    _write_files([_File.plan(Path(path), metadata, _sources(tensors), alignment, version, share)], on_bytes)


def write_split_gguf(
    prefix: str | Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, npt.NDArray[Any] | TensorData],
    *,
    num_shards: int | None = None,
    max_shard_bytes: int | None = None,
    first_empty: bool = False,
    alignment: int = DEFAULT_ALIGNMENT,
) -> list[Path]:
    """Write <prefix>-00001-of-0000N.gguf and so on; returns the paths.

    Tensors are dealt in order: with num_shards as evenly by number as possible, with max_shard_bytes as many into a
    shard as have no more bytes. With first_empty the first shard has only metadata. Later shards carry only the split
    keys, the first carries `metadata` as well. The shards take their places together, the first one last: a model
    that is open to readers is complete.
    """
    sources = _sources(tensors)
    if (num_shards is None) == (max_shard_bytes is None):
        raise ConfigError(f"give one of num_shards={num_shards} and max_shard_bytes={max_shard_bytes}")
    if num_shards is None:
        parts = _deal_by_bytes(sources, max_shard_bytes or 0, alignment)
    else:
        if not first_empty < num_shards <= MAX_SHARDS:
            raise ConfigError(f"num_shards is {num_shards}, must be from {first_empty + 1} to {MAX_SHARDS}")
        parts = _deal_by_number(list(sources), num_shards - first_empty)
    parts = [[], *parts] if first_empty else parts
    if len(parts) > MAX_SHARDS:
        raise ConfigError(f"max_shard_bytes={max_shard_bytes} makes {len(parts)} shards, more than {MAX_SHARDS}")
    files = []
    for index, names in enumerate(parts):
        keys = {
            "split.no": TypedValue(ValueType.U16, index),
            "split.count": TypedValue(ValueType.U16, len(parts)),
            "split.tensors.count": TypedValue(ValueType.I32, len(sources)),
        }
        pairs = {**({} if index else metadata), **keys}
        path = shard_path(prefix, index, len(parts))
        files.append(_File.plan(path, pairs, {name: sources[name] for name in names}, alignment, VERSIONS[-1]))
    _write_files(files)
    return [file.path for file in files]


def _deal_by_number(names: Sequence[str], num_parts: int) -> list[list[str]]:
    cuts = [len(names) * i // num_parts for i in range(num_parts + 1)]
    return [list(names[start:stop]) for start, stop in itertools.pairwise(cuts)]


def _deal_by_bytes(sources: Mapping[str, TensorData], max_bytes: int, alignment: int) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    size = 0
    for name, source in sources.items():
        with _naming(f"tensor {name!r}"):
            nbytes = source.type.nbytes(source.shape)
        padded = nbytes + -nbytes % alignment
        if padded > max_bytes:
            raise ConfigError(f"tensor {name!r} takes {padded} bytes, more than a shard may have ({max_bytes})")
        if size + padded > max_bytes:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += padded
    return parts


def _sources(tensors: Mapping[str, npt.NDArray[Any] | TensorData]) -> dict[str, TensorData]:
    return {name: t if isinstance(t, TensorData) else _from_array(name, t) for name, t in tensors.items()}


def _from_array(name: str, values: npt.NDArray[Any]) -> TensorData:
    with _naming(f"tensor {name!r}"):
        return TensorData.from_array(values)


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Say of which key or tensor an error speaks."""
    try:
        yield
    except (ConfigError, struct.error, OverflowError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{what}: {error}") from None


def _check_layout(pairs: dict[str, TypedValue], alignment: int, version: int) -> None:
    if version not in VERSIONS:
        raise ConfigError(f"GGUF version {version} cannot be written; possible: {VERSIONS}")
    if not MIN_ALIGNMENT <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise ConfigError(f"alignment {alignment} is not a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}")
    if alignment != DEFAULT_ALIGNMENT:
        pairs.setdefault("general.alignment", TypedValue(ValueType.U32, alignment))
    stated = pairs.get("general.alignment", TypedValue(ValueType.U32, alignment))
    if stated.is_array or (stated.type, stated.value) != (ValueType.U32, alignment):
        raise ConfigError(f"metadata key 'general.alignment' is {stated}, but alignment={alignment} was asked for")


def _header(pairs: Mapping[str, TypedValue], sources: Mapping[str, TensorData], alignment: int, version: int) -> bytes:
    parts = [MAGIC, struct.pack("<IQQ", version, len(sources), len(pairs))]
    for key, value in pairs.items():
        with _naming(f"metadata key {key!r} of type {value.type.name}"):
            parts += [_name(key), _value(value)]
    offset = 0
    for name, source in sources.items():
        with _naming(f"tensor {name!r}"):
            parts += [_name(name), _info(source, offset)]
            nbytes = source.type.nbytes(source.shape)
        offset += nbytes + -nbytes % alignment
    return b"".join(parts)


def _name(name: str) -> bytes:
    raw = name.encode()
    if len(raw) > MAX_NAME_BYTES:
        raise ConfigError(f"the name has {len(raw)} bytes, more than the {MAX_NAME_BYTES} of the format")
    return struct.pack("<Q", len(raw)) + raw


def _info(source: TensorData, offset: int) -> bytes:
    dims = source.shape[::-1]
    if not 1 <= len(dims) <= MAX_DIMS or 0 in dims:
        raise ConfigError(f"shape {source.shape} must have 1 to {MAX_DIMS} dimensions, none of them 0")
    return struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, source.type.id, offset)


def _value(value: TypedValue) -> bytes:
    if not value.is_array:
        return struct.pack("<I", value.type) + _elements(value.type, [value.value])
    return struct.pack("<IIQ", ValueType.ARRAY, value.type, len(value.value)) + _elements(value.type, value.value)


def _elements(value_type: ValueType, values: Any) -> bytes:
    if value_type is ValueType.STRING:
        raw = [text.encode() for text in values]
        return b"".join(part for text in raw for part in (struct.pack("<Q", len(text)), text))
    if isinstance(values, np.ndarray):
        if not np.can_cast(values.dtype, DTYPES[value_type], "safe"):
            raise ValueError(f"an array of {values.dtype} does not fit")
        return values.astype(DTYPES[value_type]).tobytes()
    if value_type is ValueType.BOOL and not all(isinstance(value, bool | np.bool_) for value in values):
        raise TypeError("only True and False are bools")
    # struct checks kinds and ranges, which numpy's casts do not.
    return struct.pack(f"<{len(values)}{_STRUCT_CODES[value_type]}", *values)


@dataclass(frozen=True, eq=False)
class _File:
    """A file to write: all of it that is known before the first tensor is made."""

    path: Path
    header: bytes
    sources: Mapping[str, TensorData]
    alignment: int

    @classmethod
    def plan(
        cls,
        path: Path,
        metadata: Mapping[str, Any],
        sources: Mapping[str, TensorData],
        alignment: int,
        version: int,
        share: str | None = None,
    ) -> "_File":
        if not path.parent.is_dir():
            raise ConfigError(f"{path}: no such folder {path.parent}; create it first")
        pairs = {key: typed(key, value) for key, value in metadata.items() if key != PADDING_KEY}
        _check_layout(pairs, alignment, version)
        header = _header(pairs, sources, alignment, version)
        if share is not None and (blanks := _blanks(len(header), sources, alignment, share)) is not None:
            padding = TypedValue(ValueType.STRING, " " * blanks)
            header = _header({**pairs, PADDING_KEY: padding}, sources, alignment, version)
        return cls(path, header, sources, alignment)

    def write(self, path: Path, on_bytes: OnBytes | None) -> None:
        """All bytes to a new file at `path`, and to the disk."""
        padding = b"\0" * self.alignment
        with path.open("xb") as file:
            file.write(self.header)
            for name, source in runs(self.sources, self.alignment):
                file.write(padding[: -file.tell() % self.alignment])
                if isinstance(source, FileRange):
                    copy_range(source, file, on_bytes)
                    continue
                for piece in _pieces(name, source):
                    file.write(piece.data)
            # Readers expect even the last tensor to be padded.
            file.write(padding[: -file.tell() % self.alignment])
            file.flush()
            os.fsync(file.fileno())


def _blanks(header_bytes: int, sources: Mapping[str, TensorData], alignment: int, share: str) -> int | None:
    """The length of a padding by which tensor `share` comes to lie as in its source; None if it does without one, or
    if the two alignments never let it."""
    source = sources[share].data
    assert isinstance(source, FileRange), f"{share} is no range of a file"
    names = list(itertools.takewhile(lambda name: name != share, sources))
    before = [sources[name].type.nbytes(sources[name].shape) for name in names]
    wanted = (source.offset - sum(nbytes + -nbytes % alignment for nbytes in before)) % BLOCK_BYTES
    start = header_bytes + -header_bytes % alignment
    if start % BLOCK_BYTES == wanted or wanted % alignment:
        return None
    empty = header_bytes + len(_name(PADDING_KEY)) + len(_value(TypedValue(ValueType.STRING, "")))
    return (wanted - empty) % BLOCK_BYTES


def runs(sources: Mapping[str, TensorData], alignment: int) -> Iterator[tuple[str, TensorData | FileRange]]:
    """The sources; ranges that follow one another there as they do here are one, with the padding between them."""
    run: FileRange | None = None
    first = ""
    for name, source in sources.items():
        data = source.data
        if not isinstance(data, FileRange):
            if run is not None:
                yield first, run
            run = None
            yield name, source
            continue
        if data.nbytes != source.type.nbytes(source.shape):
            raise _wrong_bytes(name, source, f"a range of {data.nbytes}")
        if run is not None and (run.path, run.stop + -run.nbytes % alignment) == (data.path, data.offset):
            run = run.until(data.stop)
            continue
        if run is not None:
            yield first, run
        first, run = name, data
    if run is not None:
        yield first, run


def _pieces(name: str, source: TensorData) -> Iterator[Bytes]:
    """The bytes of a tensor, checked: neither more nor fewer than its type and shape take."""
    assert not isinstance(source.data, FileRange)
    data = source.data() if callable(source.data) else source.data
    expected, found = source.type.nbytes(source.shape), 0
    for piece in [data] if isinstance(data, np.ndarray) else data:
        found += piece.size
        if piece.dtype != np.uint8 or found > expected:
            raise _wrong_bytes(name, source, f"{found} {piece.dtype}")
        yield np.ascontiguousarray(piece)
    if found != expected:
        raise _wrong_bytes(name, source, f"{found} uint8")


def _wrong_bytes(name: str, source: TensorData, found: str) -> ConfigError:
    expected = source.type.nbytes(source.shape)
    return ConfigError(
        f"tensor {name!r}: {source.type.name} of shape {source.shape} takes {expected} uint8, got {found}"
    )


def _write_files(files: Sequence[_File], on_bytes: OnBytes | None = None) -> None:
    """Write the files under names of their own, then let them take their places; on any fault there is nothing new.

    Of several, the first is the one that readers open. It goes first and comes last, so that nobody ever opens a mix
    of old and new. Each of these steps is on the disk before the next, or a power cut might leave the last one alone.
    """
    first, *others = files
    with ExitStack() as on_leaving:
        written = {}
        for file in files:
            temporary = written[file] = file.path.with_name(f".{file.path.name}.{secrets.token_hex(4)}.tmp")
            on_leaving.callback(temporary.unlink, missing_ok=True)
            file.write(temporary, on_bytes)
        if others:
            first.path.unlink(missing_ok=True)
            sync_folder(first.path.parent)
            for file in others:
                written[file].replace(file.path)
            sync_folder(first.path.parent)
        written[first].replace(first.path)
        sync_folder(first.path.parent)
