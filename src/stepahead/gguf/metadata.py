"""Metadata values of a GGUF file: their types on disk, their Python values, and getters that check.

Owns ValueType, TypedValue, the rule that infers a type from a Python value, and MetadataReader (get_int and friends).
Must not know: which keys a model has, and where the bytes lie.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from stepahead.errors import ConfigError, ModelFormatError

# Scalars as Python's own; string arrays as lists; every numeric or bool array as a read-only numpy array.
MetadataValue = str | int | float | bool | list[str] | npt.NDArray[Any]

Default = TypeVar("Default")
_REQUIRED: Any = object()


class ValueType(enum.IntEnum):
    """The type ids of metadata values in the file."""

    U8 = 0
    I8 = 1
    U16 = 2
    I16 = 3
    U32 = 4
    I32 = 5
    F32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    U64 = 10
    I64 = 11
    F64 = 12


# Every type of fixed size; the others are STRING and ARRAY.
DTYPES: dict[ValueType, np.dtype[Any]] = {
    ValueType.U8: np.dtype("<u1"),
    ValueType.I8: np.dtype("<i1"),
    ValueType.U16: np.dtype("<u2"),
    ValueType.I16: np.dtype("<i2"),
    ValueType.U32: np.dtype("<u4"),
    ValueType.I32: np.dtype("<i4"),
    ValueType.F32: np.dtype("<f4"),
    ValueType.BOOL: np.dtype("?"),
    ValueType.U64: np.dtype("<u8"),
    ValueType.I64: np.dtype("<i8"),
    ValueType.F64: np.dtype("<f8"),
}
_BY_DTYPE = {dtype: value_type for value_type, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TypedValue:
    """A metadata value with its type on disk. A list, tuple or numpy array is an array of `type`."""

    type: ValueType
    value: Any

    def __post_init__(self) -> None:
        if self.type is ValueType.ARRAY:
            raise ConfigError("the type of an array is that of its elements, not ARRAY")

    @property
    def is_array(self) -> bool:
        return isinstance(self.value, list | tuple | np.ndarray)


def typed(key: str, value: Any) -> TypedValue:
    """The value with an inferred type, or as it is if it has one.

    bool, str, float (F32), int (U32; I32 if negative; U64 or I64 if it does not fit), numpy scalars and arrays by their
    dtype, sequences by their elements (ints: I32, then U32, I64, U64). ConfigError names the key of what fits nowhere.
    """
    if isinstance(value, TypedValue):
        return value
    if isinstance(value, np.ndarray | np.generic):
        value_type = _BY_DTYPE.get(value.dtype)
        if value_type is None or value.ndim != isinstance(value, np.ndarray):
            raise ConfigError(f"metadata key {key!r}: no GGUF type for {value.dtype} of shape {value.shape}")
        return TypedValue(value_type, value)
    if isinstance(value, list | tuple):
        if not value:
            raise ConfigError(f"metadata key {key!r}: an empty list has no element type; pass a TypedValue")
        return TypedValue(_infer(key, value, (ValueType.I32, ValueType.U32, ValueType.I64, ValueType.U64)), value)
    return TypedValue(_infer(key, [value], (ValueType.U32, ValueType.I32, ValueType.U64, ValueType.I64)), value)


def _infer(key: str, values: Sequence[Any], integers: Sequence[ValueType]) -> ValueType:
    kinds = {type(value) for value in values}
    for kind, value_type in ((bool, ValueType.BOOL), (str, ValueType.STRING)):
        if kinds == {kind}:
            return value_type
    if kinds == {int}:
        for value_type in integers:
            limits = np.iinfo(DTYPES[value_type])
            if limits.min <= min(values) and max(values) <= limits.max:
                return value_type
    if kinds in ({float}, {int, float}):
        return ValueType.F32
    names = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise ConfigError(f"metadata key {key!r}: no GGUF type for a value of {names}; pass a TypedValue")


class MetadataReader:
    """Typed access to the metadata of the file at `path`.

    A getter returns the value if it has the type asked for, the default if the key is absent and a default was given,
    and raises ModelFormatError, naming file, key, expected and found type, otherwise.
    """

    path: Path
    metadata: Mapping[str, MetadataValue]

    def get_str(self, key: str, default: Default = _REQUIRED) -> str | Default:
        """A string."""
        value = self._get(key, "a string", default)
        return value if value is default or isinstance(value, str) else self._refuse(key, "a string", value)

    def get_int(self, key: str, default: Default = _REQUIRED) -> int | Default:
        """An integer of any width; a bool is not one."""
        value = self._get(key, "an integer", default)
        return value if value is default or type(value) is int else self._refuse(key, "an integer", value)

    def get_float(self, key: str, default: Default = _REQUIRED) -> float | Default:
        """A float (F32 widened exactly, or F64); an integer is not one."""
        value = self._get(key, "a float", default)
        return value if value is default or isinstance(value, float) else self._refuse(key, "a float", value)

    def get_bool(self, key: str, default: Default = _REQUIRED) -> bool | Default:
        """A bool."""
        value = self._get(key, "a bool", default)
        return value if value is default or isinstance(value, bool) else self._refuse(key, "a bool", value)

    def get_array(self, key: str, default: Default = _REQUIRED, *, kind: type | None = None) -> Any | Default:
        """An array: list[str], or a read-only 1-D numpy array in the file's dtype.

        kind: int, float, bool or str to demand elements of that kind (any width).
        """
        expected = "an array" if kind is None else f"an array of {kind.__name__}"
        value = self._get(key, expected, default)
        if value is default:
            return value
        if isinstance(value, list):
            found: type = str
        elif isinstance(value, np.ndarray):
            found = {"b": bool, "f": float}.get(value.dtype.kind, int)
        else:
            return self._refuse(key, expected, value)
        return value if kind in (None, found) else self._refuse(key, expected, value)

    def _get(self, key: str, expected: str, default: Any) -> Any:
        value = self.metadata.get(key, default)
        if value is _REQUIRED:
            raise ModelFormatError(f"{self.path}: metadata key {key!r} is missing (expected {expected})")
        return value

    def _refuse(self, key: str, expected: str, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            found = f"an array of {value.size} {value.dtype.name}"
        elif isinstance(value, list):
            found = f"an array of {len(value)} strings"
        else:
            found = f"{type(value).__name__} {value!r:.60}"
        raise ModelFormatError(f"{self.path}: metadata key {key!r}: expected {expected}, found {found}")
