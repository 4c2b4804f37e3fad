"""Values of an object in config.json, by any of their names, refused in one line where they cannot be."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepahead.convert.weight_file import clip
from stepahead.errors import ModelFormatError, UnsupportedModelError

_REQUIRED: Any = object()
MAX_SIZE = 2**31 - 1
MAX_NUMBER = 1e30


@dataclass(frozen=True, slots=True)
class Section:
    """An object of the file at `path`. A null is as good as nothing; the first name that has a value counts."""

    path: Path
    values: Mapping[str, Any]

    def get(self, *names: str, default: Any = _REQUIRED) -> Any:
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        if default is _REQUIRED:
            raise ModelFormatError(f"{self.path}: {' or '.join(names)} is missing")
        return default

    def section(self, name: str) -> "Section":
        """An object in this one; empty if there is none."""
        value = self.get(name, default={})
        if not isinstance(value, dict):
            raise ModelFormatError(f"{self.path}: {name} is {clip(value)}, expected an object")
        return Section(self.path, value)

    def positive(self, *names: str, default: int | None = None, limit: int = MAX_SIZE) -> int:
        value = self.get(*names, default=_REQUIRED if default is None else default)
        if type(value) is not int or not 0 < value <= limit:
            raise ModelFormatError(f"{self.path}: {' or '.join(names)} is {clip(value)}, expected 1 to {limit}")
        return value

    def optional_count(self, *names: str, limit: int = MAX_SIZE) -> int | None:
        value = self.get(*names, default=None)
        if value is not None and (type(value) is not int or not 0 <= value <= limit):
            raise ModelFormatError(f"{self.path}: {' or '.join(names)} is {clip(value)}, expected 0 to {limit}")
        return value

    def positive_float(self, *names: str, default: float | None = None) -> float:
        value = self.get(*names, default=_REQUIRED if default is None else default)
        if type(value) not in (int, float) or not 0 < value < MAX_NUMBER:
            raise ModelFormatError(f"{self.path}: {' or '.join(names)} is {clip(value)}, expected a positive number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.get(name, default=default)
        if not isinstance(value, bool):
            raise ModelFormatError(f"{self.path}: {name} is {clip(value)}, expected true or false")
        return value

    def entries(self, name: str, default: list[Any] | None = None) -> list[Any]:
        value = self.get(name, default=_REQUIRED if default is None else default)
        if not isinstance(value, list):
            raise ModelFormatError(f"{self.path}: {name} is {clip(value)}, expected a list")
        return value

    def demand(self, name: str, expected: float) -> None:
        """A value that GGUF files of this architecture cannot vary, if it is given at all."""
        value = self.get(name, default=expected)
        if value != expected:
            raise UnsupportedModelError(
                f"{self.path}: {name} is {clip(value)}; a file of this architecture says {expected}"
            )
