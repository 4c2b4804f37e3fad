"""The fields of a request: honoured, accepted as a hint without effect, or refused by name; and their types.

An endpoint publishes its fields in a table (`FieldTable`), from which the documentation is made, so that nothing that
matters is ignored in silence. `Fields` reads the values of one object and names the path of what is wrong. null is the
same as absence everywhere.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stepahead.server.api_error import ApiError

MAX_NAME_CHARS = 64  # of what the client sent, in an error


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a field is refused; `neutral` values ask for nothing that is not done, and pass."""

    reason: str
    neutral: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class FieldTable:
    """All fields of an object, each in one class; honoured and hints say what they mean."""

    honoured: Mapping[str, str]
    hints: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, Refused] = field(default_factory=dict)

    def check(self, body: Mapping[str, Any], unknown: Literal["refuse", "warn"], path: str = "") -> list[str]:
        """Raises ApiError for a field that is refused, or unknown (unless it is to be warned of); gives warnings."""
        warnings = []
        for name, value in body.items():
            where = f"{path}.{shown(name)}" if path else shown(name)
            refused = self.refused.get(name)
            if refused is not None:
                if value is not None and not any(value == one and type(value) is type(one) for one in refused.neutral):
                    raise ApiError("invalid_request", f"{where}: {refused.reason}", where, "unsupported_value")
            elif name not in self.honoured and name not in self.hints:
                if unknown == "refuse":
                    raise ApiError(
                        "invalid_request",
                        f"{where} is not a field that this server knows; leave it out, or start the server with "
                        "--unknown-fields warn",
                        where,
                        "unknown_parameter",
                    )
                warnings.append(where)
        return warnings


def shown(name: str) -> str:
    """A name that the client chose, fit for an error, a header and a log."""
    plain = "".join(char if char.isascii() and char.isprintable() else "?" for char in name[: MAX_NAME_CHARS + 1])
    return plain if len(plain) <= MAX_NAME_CHARS else plain[:MAX_NAME_CHARS] + "..."


def wrong(path: str, what: str, code: str | None = None) -> ApiError:
    return ApiError("invalid_request", f"{path} {what}", path, code)


class Fields:
    """Reads the fields of one JSON object; each method raises ApiError for a wrong type or value."""

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        self.values = values
        self._path = path

    @property
    def place(self) -> str:
        """Where the object stands in the body."""
        return self._path

    def path(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name

    def wrong(self, name: str, what: str, code: str | None = None) -> ApiError:
        """The error that says `name` is wrong."""
        return wrong(self.path(name), what, code)

    def has(self, name: str) -> bool:
        return self.values.get(name) is not None

    def boolean(self, name: str, default: bool = False) -> bool:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "must be true or false")
        return value

    def integer(self, name: str, low: int, high: int | None = None) -> int | None:
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.wrong(name, "must be an integer")
        if value < low or (high is not None and value > high):
            raise self.wrong(name, f"must be at least {low}" if high is None else f"must be from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float) -> float | None:
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(name, "must be a number")
        if not low <= value <= high or not math.isfinite(value):
            raise self.wrong(name, f"must be from {low:g} to {high:g}")
        return float(value)

    def string(self, name: str, max_chars: int | None = None) -> str | None:
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.wrong(name, "must be a string")
        if max_chars is not None and len(value) > max_chars:
            raise self.wrong(name, f"must have at most {max_chars} characters")
        return value

    def choice(self, name: str, allowed: tuple[str, ...]) -> str | None:
        value = self.string(name)
        if value is not None and value not in allowed:
            raise self.wrong(name, f"must be one of {', '.join(allowed)}", "unsupported_value")
        return value

    def strings(self, name: str, max_items: int, max_chars: int) -> tuple[str, ...]:
        """A string or a list of strings, none of them empty; () if absent."""
        value = self.values.get(name)
        if value is None:
            return ()
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise self.wrong(name, "must be a string or a list of strings")
        if len(items) > max_items:
            raise self.wrong(name, f"must have at most {max_items} items")
        if any(not item or len(item) > max_chars for item in items):
            raise self.wrong(name, f"must not hold empty strings, or longer ones than {max_chars} characters")
        return tuple(items)

    def object(self, name: str) -> "Fields | None":
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.wrong(name, "must be an object")
        return Fields(value, self.path(name))

    def list(self, name: str, max_items: int) -> list[Any] | None:
        value = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, list):
            raise self.wrong(name, "must be a list")
        if len(value) > max_items:
            raise self.wrong(name, f"must have at most {max_items} items")
        return value

    def objects(self, name: str, max_items: int) -> "Iterator[Fields]":
        """The objects of a list; none if it is absent."""
        for index, item in enumerate(self.list(name, max_items) or ()):
            where = f"{self.path(name)}[{index}]"
            if not isinstance(item, dict):
                raise wrong(where, "must be an object")
            yield Fields(item, where)
