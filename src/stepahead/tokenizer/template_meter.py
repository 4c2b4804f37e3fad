"""What one rendering of a chat template may use up: steps, time, text, items, nesting.

A template is a program from a model file, and a small one can ask for a gigabyte or for hours. Owns the limits and
the counting. Knows nothing about Jinja but its error class.
"""

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

_MAX_INT_BITS = 4096
_MAX_PADDING = 9999
_LONG_NUMBER = re.compile(r"\d{5}")
_NESTED_FORMAT_SPEC = re.compile(r":[^{}]*\{")


class TemplateLimitError(SecurityError):
    """A template asked for more than one rendering may use."""


@dataclass(frozen=True, slots=True)
class TemplateLimits:
    """Limits of a chat template; far above what a real one needs for a context of a million tokens."""

    source_chars: int = 1 << 20
    text_chars: int = 16 << 20  # of the rendering and of every string on the way
    items: int = 1 << 20  # of every list on the way
    total_factor: int = 16  # all strings and lists on the way together: this many times the largest
    steps: int = 2_000_000  # loop iterations, calls, filters, operators: about two seconds
    seconds: float = 10.0  # backstop for operations that are slow in themselves
    depth: int = 64  # of macro calls and recursive loops


class Meter:
    """Counts one rendering against its limits; every method raises TemplateLimitError past one of them."""

    __slots__ = ("_chars", "_deadline", "_depth", "_items", "_steps", "limits")

    def __init__(self, limits: TemplateLimits) -> None:
        self.limits = limits
        self._steps = 0
        self._depth = 0
        self._chars = 0
        self._items = 0
        self._deadline = time.monotonic() + limits.seconds

    def step(self) -> None:
        """One unit of work."""
        self._steps += 1
        if self._steps > self.limits.steps:
            raise TemplateLimitError(f"it takes more than {self.limits.steps} steps")
        if time.monotonic() > self._deadline:
            raise TemplateLimitError(f"it takes more than {self.limits.seconds:g} s")

    def enter(self) -> None:
        """One more nested call."""
        if self._depth >= self.limits.depth:
            raise TemplateLimitError(f"it nests calls deeper than {self.limits.depth}")
        self._depth += 1

    def leave(self) -> None:
        """Back from a nested call."""
        self._depth -= 1

    def text(self, num_chars: int) -> None:
        """Whether a string of this length may be made."""
        if num_chars > self.limits.text_chars:
            raise TemplateLimitError(f"it makes a text of more than {self.limits.text_chars} characters")

    def items(self, num_items: int) -> None:
        """Whether a list of this length may be made."""
        if num_items > self.limits.items:
            raise TemplateLimitError(f"it makes a list of more than {self.limits.items} items")

    def made_text(self, num_chars: int) -> None:
        """Strings of this length together were made, or are about to be."""
        self.text(num_chars)
        self._chars += num_chars
        limit = self.limits.text_chars * self.limits.total_factor
        if self._chars > limit:
            raise TemplateLimitError(f"it makes more than {limit} characters in all")

    def made_items(self, num_items: int) -> None:
        """Lists of this length together were made, or are about to be."""
        self.items(num_items)
        self._items += num_items
        limit = self.limits.items * self.limits.total_factor
        if self._items > limit:
            raise TemplateLimitError(f"it makes more than {limit} list items in all")

    def made(self, value: Any) -> Any:
        """`value`, which was just made, or is about to be copied."""
        if isinstance(value, str):
            self.made_text(len(value))
        elif isinstance(value, list | tuple | dict):
            self.made_items(len(value))
        return value

    def listed(self, values: Iterable[Any]) -> list[Any]:
        """`values` as a list, no longer than a list may be."""
        result = []
        for value in values:
            self.step()
            result.append(value)
            self.items(len(result))
        return result

    def size(self, *values: Any) -> int:
        """About the length of the values written out; shared parts count each time, as they would be written.

        Past the limit of text it raises, however much more there would be.
        """
        total = 0
        pending = list(values)
        while pending:
            value = pending.pop()
            total += 2
            if isinstance(value, str):
                total += len(value)
            elif isinstance(value, Mapping):
                self.step()
                pending += [*value.keys(), *value.values()]
            elif isinstance(value, list | tuple | set | frozenset):
                self.step()
                pending += value
            elif isinstance(value, Namespace):
                self.step()
                pending.append(getattr(value, "_Namespace__attrs"))  # noqa: B009 (its own name for it)
            self.text(total)
        return total

    def binary(self, operator: str, left: Any, right: Any) -> None:
        """`left operator right` is about to be computed."""
        self.step()
        if operator == "+" and _is_sized(left) and _is_sized(right):
            self._length_of_kind(left, len(left) + len(right))
        elif operator == "*" and isinstance(left, int) and isinstance(right, int):
            self._integer(left.bit_length() + right.bit_length())
        elif operator == "*" and isinstance(right, int) and _is_sized(left):
            self._length_of_kind(left, len(left) * right)
        elif operator == "*" and isinstance(left, int) and _is_sized(right):
            self._length_of_kind(right, len(right) * left)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            self._integer(left.bit_length() * right)
        elif operator == "%" and isinstance(left, str):
            self.percent_format(left, right)
        if isinstance(left, tuple) and isinstance(right, tuple):
            self.size(left, right)

    def percent_format(self, template: str, values: Any) -> None:
        """`template % values` is about to be computed."""
        wide = _LONG_NUMBER.search(template) or ("*" in template and self._has_wide_number(values))
        self._padding(bool(wide))
        self.text(len(template) + template.count("%") * (_MAX_PADDING + self.size(values)))

    def brace_format(self, template: str, values: Any) -> None:
        """`template.format(...)` is about to be computed."""
        self._padding(bool(_LONG_NUMBER.search(template) or _NESTED_FORMAT_SPEC.search(template)))
        self.text(len(template) + template.count("{") * (_MAX_PADDING + self.size(values)))

    def replacing(self, text: str, old: Any, new: Any) -> None:
        """`text.replace(old, new)` is about to be computed."""
        if isinstance(old, str) and isinstance(new, str):
            self.text(len(text) + text.count(old) * len(new))

    def _length_of_kind(self, like: Any, length: int) -> None:
        if isinstance(like, list | tuple):
            self.items(length)
        else:
            self.text(length)

    def _integer(self, bits: int) -> None:
        if bits > _MAX_INT_BITS:
            raise TemplateLimitError(f"it makes a number of more than {_MAX_INT_BITS} bits")

    def _padding(self, is_wide: bool) -> None:
        if is_wide:
            raise TemplateLimitError(f"it pads a field to more than {_MAX_PADDING} characters or to a computed width")

    def _has_wide_number(self, values: Any) -> bool:
        candidates = values if isinstance(values, tuple) else (values,)
        return any(isinstance(value, int) and abs(value) > _MAX_PADDING for value in candidates)


def _is_sized(value: Any) -> bool:
    return isinstance(value, str | list | tuple)
