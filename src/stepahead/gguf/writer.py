"""Writing GGUF files, whole or split.

Owns write_gguf, write_split_gguf and TensorData. A file appears under its name complete or not at all. Must not know:
architectures, which keys a model needs, how to choose a quantisation.
"""

import os
import secrets
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from stepahead.errors import ConfigError
from stepahead.gguf.block_quants import Bytes
from stepahead.gguf.cursor import MAX_NAME_BYTES
from stepahead.gguf.header import DEFAULT_ALIGNMENT, MAGIC, MAX_ALIGNMENT, MAX_DIMS, MIN_ALIGNMENT, VERSIONS
from stepahead.gguf.metadata import DTYPES, TypedValue, ValueType, typed
from stepahead.gguf.quantize import quantize
from stepahead.gguf.quants import QuantType
from stepahead.gguf.shard import shard_path

# Shard names have five digits, split.count is a U16.
MAX_SHARDS = 65535
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
    without arguments that returns it and is called once, so that a model larger than memory can be written.
    """

    type: QuantType
    shape: tuple[int, ...]
    data: Bytes | Callable[[], Bytes]

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
) -> None:
    """Write a GGUF file; an existing one is replaced only once the new one is complete.

    metadata: values with inferred types (see metadata.typed) or TypedValues. tensors: float32 or float16 arrays, or
    TensorData, written in the mapping's order. `general.alignment` is added if alignment is not 32.
    ConfigError names the key or tensor that cannot be written; OSError is the disk's.
    """
    path = Path(path)
    pairs = {key: typed(key, value) for key, value in metadata.items()}
    sources = {name: t if isinstance(t, TensorData) else _from_array(name, t) for name, t in tensors.items()}
    _check_layout(pairs, alignment, version)
    header, padding = _header(pairs, sources, alignment, version), b"\0" * alignment
    with _replacing(path) as file:
        file.write(header)
        for name, source in sources.items():
            file.write(padding[: -file.tell() % alignment])
            file.write(_tensor_bytes(name, source).data)
        # Readers expect even the last tensor to be padded.
        file.write(padding[: -file.tell() % alignment])


def write_split_gguf(
    prefix: str | Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, npt.NDArray[Any] | TensorData],
    *,
    num_shards: int,
    first_empty: bool = False,
    alignment: int = DEFAULT_ALIGNMENT,
) -> list[Path]:
    """Write <prefix>-00001-of-0000N.gguf and so on; returns the paths.

    Tensors are dealt in order, as evenly by number as possible; with first_empty the first shard has only metadata.
    Later shards carry only the split keys, the first carries `metadata` as well.
    """
    if not first_empty < num_shards <= MAX_SHARDS:
        raise ConfigError(f"num_shards is {num_shards}, must be from {first_empty + 1} to {MAX_SHARDS}")
    names = list(tensors)
    cuts = [len(names) * i // (num_shards - first_empty) for i in range(num_shards - first_empty + 1)]
    cuts = [0, *cuts] if first_empty else cuts
    paths = [shard_path(prefix, index, num_shards) for index in range(num_shards)]
    for index, path in enumerate(paths):
        keys = {
            "split.no": TypedValue(ValueType.U16, index),
            "split.count": TypedValue(ValueType.U16, num_shards),
            "split.tensors.count": TypedValue(ValueType.I32, len(names)),
        }
        part = {name: tensors[name] for name in names[cuts[index] : cuts[index + 1]]}
        write_gguf(path, {**({} if index else metadata), **keys}, part, alignment=alignment)
    return paths


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


def _header(pairs: dict[str, TypedValue], sources: dict[str, TensorData], alignment: int, version: int) -> bytes:
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


def _tensor_bytes(name: str, source: TensorData) -> Bytes:
    data = source.data() if callable(source.data) else source.data
    expected = source.type.nbytes(source.shape)
    if data.dtype != np.uint8 or data.size != expected:
        raise ConfigError(
            f"tensor {name!r}: {source.type.name} of shape {source.shape} takes {expected} uint8, "
            f"got {data.size} {data.dtype}"
        )
    return np.ascontiguousarray(data)


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well, and vanishes when it does not."""
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: no such folder {path.parent}; create it first")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
