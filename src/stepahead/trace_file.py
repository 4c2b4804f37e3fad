"""A trace in a file: a header line, then a line of JSON for each step of each sequence.

Written while text is generated, so that a process which is killed leaves a file that can be read up to there. Read as
what it is, a file from anywhere: every value is checked before anyone computes with it.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from stepahead import __version__
from stepahead.engine.trace import StepTrace
from stepahead.errors import ConfigError

FORMAT = 1
DIGITS = 6  # significant, of a float: more than any clock has
MAX_LINE = 65_536  # bytes; a step of sixteen rows has about 600
MAX_STEPS = 1_000_000
MAX_NUMBER = 1e12
_TYPES: dict[str, Any] = {field.name: field.type for field in fields(StepTrace)}
_SOURCE = re.compile(r"[\w+-]{0,32}")


@dataclass(frozen=True, slots=True)
class TraceHeader:
    """What ran where."""

    model: str
    machine: str
    isa: str
    threads: int
    stepahead: str = __version__  # the version that wrote it


@dataclass(frozen=True, slots=True)
class Trace:
    """A file's content."""

    header: TraceHeader
    steps: list[StepTrace]
    is_cut: bool  # its last line is not whole, as after a kill or on a full disk, and was left out


class TraceWriter:
    """An OnStep that writes what it hears, and a context manager.

    A disk that fails while text is generated costs the rest of the trace, never the text: writing ends there, and
    leaving the context raises one ConfigError, unless another error is on its way.
    """

    def __init__(self, path: Path, header: TraceHeader) -> None:
        """Overwrites `path`. Raises ConfigError where it cannot be written."""
        self._path = path
        self._num_steps = 0
        self._fault: str | None = None
        try:
            self._file: BinaryIO = path.open("wb")
        except OSError as error:
            raise ConfigError(f"{path}: no trace can be written there ({error.strerror}): give another path") from error
        self._write({"kind": "trace", "format": FORMAT, **asdict(header)})

    def __call__(self, step: StepTrace) -> None:
        if self._fault is None:
            try:
                content = {name: _rounded(getattr(step, name), kind) for name, kind in _TYPES.items()}
            except ValueError as error:
                self._fault = str(error)
                return
            self._write(content)
            self._num_steps += self._fault is None

    def __enter__(self) -> "TraceWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except OSError as closing:
            self._fault = self._fault or closing.strerror
        if self._fault is not None and error is None:
            raise ConfigError(
                f"{self._path}: the trace ends after {self._num_steps} steps ({self._fault}): give another path"
            )

    def _write(self, content: dict[str, Any]) -> None:
        """One line, handed to the system at once."""
        try:
            self._file.write(json.dumps(content, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            self._fault = error.strerror or str(error)
            with suppress(OSError):  # what is left in the buffer has no place to go
                self._file.close()


def _rounded(value: Any, kind: Any) -> Any:
    """A field as JSON has it. Raises ValueError for a number that `read_trace` would refuse."""
    if kind is str:
        return value
    if kind is int:
        return int(value)
    if kind is float:
        if not abs(value) <= MAX_NUMBER:  # NaN, too
            raise ValueError(f"a step's figure is {value}")
        return float(f"{value:.{DIGITS}g}")
    return [_rounded(item, float) for item in value]


def read_trace(path: Path) -> Trace:
    """The trace in a file. Raises ConfigError, with the line's number, for what is none or is damaged."""
    try:
        with path.open("rb") as file:
            return _read(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}): give the FILE of a --trace") from error
    except _DamageError as error:
        raise ConfigError(f"{path}: {error}: give the FILE of a --trace") from None


class _DamageError(ValueError):
    """What is wrong, and in which line."""


def _read(file: BinaryIO) -> Trace:
    lines = _lines(file)
    number, line = next(lines, (1, b""))
    header = _header(_parsed(line, number))
    steps: list[StepTrace] = []
    for number, line in lines:
        if len(steps) == MAX_STEPS:
            raise _DamageError(f"line {number}: more than {MAX_STEPS} steps")
        try:
            content = _parsed(line, number)
        except _DamageError:
            if line.endswith(b"\n"):
                raise
            return Trace(header, steps, is_cut=True)
        steps.append(_step(content, number))
    return Trace(header, steps, is_cut=False)


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Numbered from 1; only the last one may have no end."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise _DamageError(f"line {number}: longer than {MAX_LINE} bytes")
        yield number, line


def _parsed(line: bytes, number: int) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _DamageError(f"line {number}: no JSON") from error
    if not isinstance(content, dict):
        raise _DamageError(f"line {number}: no object")
    return content


def _header(content: dict[str, Any]) -> TraceHeader:
    if content.get("kind") != "trace":
        raise _DamageError("line 1: not the header of a trace")
    if content.get("format") != FORMAT:
        raise _DamageError(f"line 1: format {str(content.get('format'))[:20]!r}, this version reads {FORMAT}")
    return TraceHeader(**{field.name: _checked(content, field.name, field.type, 1) for field in fields(TraceHeader)})


def _step(content: dict[str, Any], number: int) -> StepTrace:
    step = StepTrace(**{name: _checked(content, name, kind, number) for name, kind in _TYPES.items()})
    if not step.num_accepted <= step.depth <= step.num_drafted:
        raise _DamageError(
            f"line {number}: {step.num_accepted} accepted of {step.depth} verified of {step.num_drafted} drafted"
        )
    for name in ("probabilities", "prices"):
        if len(getattr(step, name)) > step.num_drafted:
            raise _DamageError(f"line {number}: {len(getattr(step, name))} {name} of {step.num_drafted} drafted")
    if _SOURCE.fullmatch(step.source) is None:
        raise _DamageError(f"line {number}: source {step.source[:40]!r} is no name")
    return step


def _checked(content: dict[str, Any], name: str, kind: Any, number: int) -> Any:
    """The value of a field, of its type and in its range."""
    if name not in content:
        raise _DamageError(f"line {number}: {name} is missing")
    value = content[name]
    if kind is str and isinstance(value, str):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_NUMBER:
        return value
    if kind is float and _is_number(value):
        return float(value)
    if kind not in (str, int, float) and isinstance(value, list) and all(map(_is_number, value)):
        return tuple(map(float, value))
    raise _DamageError(f"line {number}: {name} is {str(value)[:40]!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_NUMBER
