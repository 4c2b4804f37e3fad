"""Requests in one file and their answers in another, a line each, in the format of OpenAI's Batch API.

Answers are appended as they come, whole and on the disk before the next, so that a run which is killed goes on where it
was: a torn last line is dropped, and requests that have an answer are skipped. A small file beside the answers says
what they are answers to. Knows nothing of what a request means.
"""

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from stepahead.errors import ConfigError, StepaheadError
from stepahead.repack.temporary import replacing

try:
    import fcntl
except ImportError:  # Windows: two runs into one file are the caller's affair
    fcntl = None  # type: ignore[assignment]

FORMAT = "stepahead batch 1"
SIDECAR = ".batch"
"""Appended to the name of the answers' file."""

MAX_LINE = 64 << 20  # bytes
MAX_ID_CHARS = 512


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One line; body as the line has it, whatever that is."""

    number: int  # of the line, from 1
    custom_id: str
    method: Any
    url: Any
    body: Any


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """What a server would have answered."""

    status_code: int
    body: Mapping[str, Any]


class BatchInput:
    """A file of requests, read twice: now as a whole, to find what is wrong before anything runs; then one by one.

    A context manager. Raises ConfigError that names the line for what is no request at all; what is wrong with a
    request is for whoever answers it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sha256 = ""
        self._offsets: list[tuple[int, int]] = []  # (number, offset) of each line with a request
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
        try:
            self._scan()
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[BatchRequest]:
        for number, offset in self._offsets:
            self._file.seek(offset)
            yield self._parse(number, self._file.readline(MAX_LINE + 1))

    def __enter__(self) -> "BatchInput":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def _scan(self) -> None:
        digest, first_lines, offset, number = hashlib.sha256(), dict[str, int](), 0, 0
        while line := self._file.readline(MAX_LINE + 1):
            number += 1
            digest.update(line)
            if line.strip():
                request = self._parse(number, line)
                if request.custom_id in first_lines:
                    raise self._wrong(number, f"has the custom_id of line {first_lines[request.custom_id]}")
                first_lines[request.custom_id] = number
                self._offsets.append((number, offset))
            offset += len(line)
        if not self._offsets:
            raise ConfigError(f"{self.path}: there is no request in it")
        self.sha256 = digest.hexdigest()

    def _parse(self, number: int, line: bytes) -> BatchRequest:
        if len(line) > MAX_LINE:
            raise self._wrong(number, f"has more than {MAX_LINE} bytes")
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise self._wrong(number, "is no JSON") from None
        if not isinstance(value, dict):
            raise self._wrong(number, "is no JSON object")
        custom_id = value.get("custom_id")
        if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_ID_CHARS:
            raise self._wrong(number, f"has no custom_id: give a text of at most {MAX_ID_CHARS} characters")
        return BatchRequest(number, custom_id, value.get("method"), value.get("url"), value.get("body"))

    def _wrong(self, number: int, what: str) -> ConfigError:
        return ConfigError(f"{self.path}: line {number} {what}; nothing was run")


class BatchOutput:
    """A file of answers, new or of a run that ended early; a context manager.

    Raises ConfigError for a file that holds something else, or that another process writes.
    """

    def __init__(self, path: Path, requests: BatchInput, model: str) -> None:
        """model: whose answers they are."""
        self.path = path
        self.done: set[str] = set()  # custom_ids
        self.num_dropped = 0  # bytes of a torn line
        self._header = {"format": FORMAT, "input_sha256": requests.sha256, "model": model}
        self._descriptor = self._open(requests)
        try:
            self._lock()
            self._size = os.fstat(self._descriptor).st_size
            if self._size:
                self._check_header()
                self._recover()
            else:
                self._write_header()
        except OSError as error:
            os.close(self._descriptor)
            raise StepaheadError(f"{path}: {error.strerror}") from None
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> "BatchOutput":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def write(self, custom_id: str, answer: BatchAnswer | None, error: Mapping[str, str] | None = None) -> None:
        """Append one line, which is on the disk when this returns. answer None: it could not be had, as `error` says.

        Raises StepaheadError where there is no room; what was written before stays whole.
        """
        response = None
        if answer is not None:
            request_id = f"req_{secrets.token_hex(12)}"
            response = {"status_code": answer.status_code, "request_id": request_id, "body": answer.body}
        line = {
            "id": f"batch_req_{secrets.token_hex(12)}",
            "custom_id": custom_id,
            "response": response,
            "error": error,
        }
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        try:
            written = 0
            while written < len(data):  # a second call only where a disk is nearly full
                written += os.write(self._descriptor, data[written:])
            os.fsync(self._descriptor)
        except OSError as fault:
            raise StepaheadError(
                f"{self.path}: {fault.strerror}, after {len(self.done)} answers: make room and give the same command "
                "again"
            ) from None
        self.done.add(custom_id)

    # --- opening ---
    def _open(self, requests: BatchInput) -> int:
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise ConfigError(f"{self.path}: no answers can be written there ({error.strerror})") from None
        found = os.fstat(descriptor)
        fault = None
        if not stat.S_ISREG(found.st_mode):
            fault = "is no ordinary file, and answers could not be found again there"
        elif os.path.samestat(found, requests.path.stat()):
            fault = "holds the requests: give another file for the answers"
        if fault is not None:
            os.close(descriptor)
            raise ConfigError(f"{self.path}: {fault}")
        return descriptor

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{self.path}: another process is writing answers there") from None

    @property
    def _sidecar(self) -> Path:
        return self.path.with_name(self.path.name + SIDECAR)

    def _write_header(self) -> None:
        with replacing(self._sidecar, 0o644) as file:
            file.write(json.dumps(self._header).encode() + b"\n")

    def _check_header(self) -> None:
        try:
            found = json.loads(self._sidecar.read_bytes())
        except (OSError, ValueError, RecursionError):
            found = None
        way_out = "give another file for the answers, or remove this one"
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ConfigError(f"{self.path}: holds something, and no {self._sidecar.name} says what: {way_out}")
        if found.get("input_sha256") != self._header["input_sha256"]:
            raise ConfigError(f"{self.path}: holds answers to other requests: {way_out}")
        if found.get("model") != self._header["model"]:
            raise ConfigError(
                f"{self.path}: holds answers of {found.get('model')!r}, not of {self._header['model']!r}: {way_out}"
            )

    def _recover(self) -> None:
        """Find what is answered; drop a last line that is not whole."""
        end = 0
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            for number, line in enumerate(file, start=1):
                custom_id = _answered(line)
                if custom_id is None:
                    if end + len(line) < self._size:
                        raise ConfigError(f"{self.path}: line {number} is no answer: remove that line")
                    break
                self.done.add(custom_id)
                end += len(line)
        self.num_dropped = self._size - end
        if self.num_dropped:
            os.ftruncate(self._descriptor, end)
            os.fsync(self._descriptor)
            self._size = end


def _answered(line: bytes) -> str | None:
    """The custom_id of a whole line; None: it is no answer, or a part of one."""
    if not line.endswith(b"\n"):
        return None
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    custom_id = value.get("custom_id") if isinstance(value, dict) else None
    return custom_id if isinstance(custom_id, str) else None
