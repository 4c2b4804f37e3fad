"""Several files at once, each in segments by several connections: to the end, verified, or to be gone on with.

Must not know: whether a file goes to the hub's cache or to a folder.
"""

import errno
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepahead.errors import CapacityError, ConfigError, DownloadError
from stepahead.hub.faults import TransientError, in_one_line, transport_error
from stepahead.hub.partial import Partial, digest_of, nbytes_here, wrong_bytes
from stepahead.hub.patience import Patience
from stepahead.hub.remote_file import RemoteFile
from stepahead.hub.transfer import stream
from stepahead.repack.folders import MIN_FREE_BYTES

CONNECTIONS = 8
MAX_CONNECTIONS = 32
REPORT_SECONDS = 0.2
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Job:
    """file becomes `target`, by way of `part`, which lies on the same file system. lock: who else may be at it.

    is_trusted: a target that is there has been verified before; one that another program wrote has not.
    """

    file: RemoteFile
    part: Path
    target: Path
    lock: Path
    is_trusted: bool = False


@dataclass(slots=True)
class Progress:
    """Bytes: of all, received so far (earlier runs included), and verified."""

    total: int
    received: int = 0
    verified: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add_verified(self, count: int) -> None:
        self.add(verified=count)

    def add(self, received: int = 0, verified: int = 0) -> None:
        with self._lock:
            self.received += received
            self.verified += verified


OnProgress = Callable[[Progress], None]


def download(jobs: Sequence[Job], connections: int = CONNECTIONS, on_progress: OnProgress | None = None) -> None:
    """Every target is there and verified when this returns. What raises leaves parts that the next call goes on with.

    CapacityError: no room; DownloadError: the network, the server, or wrong bytes, of which nothing is kept.
    """
    if not 1 <= connections <= MAX_CONNECTIONS:
        raise ConfigError(f"connections={connections} is out of range: give 1 to {MAX_CONNECTIONS}")
    here = [job for job in jobs if job.target.exists() and not job.is_trusted]
    jobs = [job for job in jobs if not job.target.exists()]
    check_room(jobs)
    progress = Progress(sum(job.file.nbytes for job in (*here, *jobs)))
    progress.add(received=sum(job.file.nbytes for job in here))
    with ExitStack() as held:
        works = [held.enter_context(_work(job, progress)) for job in jobs]
        todo = [(work, work.indices()) for work in works]  # before a thread changes them
        stop = threading.Event()
        pool = held.enter_context(_pool(connections, stop))
        futures = [
            pool.submit(_or_stop, stop, work.segment, index, stop) for work, indices in todo for index in indices
        ]
        futures += [pool.submit(_or_stop, stop, work.finish) for work, indices in todo if not indices]
        futures += [pool.submit(_or_stop, stop, verify, job.file, job.target, progress.add_verified) for job in here]
        _watch(futures, progress, on_progress)


def check_room(jobs: Iterable[Job]) -> None:
    """Raises CapacityError if what is missing does not fit on a disk."""
    needed: dict[int, tuple[Path, int]] = {}
    for job in jobs:
        folder = next(parent for parent in job.part.parents if parent.exists())
        device, missing = folder.stat().st_dev, job.file.nbytes - nbytes_here(job.part, job.file)
        needed[device] = (folder, needed.get(device, (folder, 0))[1] + missing)
    for folder, nbytes in needed.values():
        free = shutil.disk_usage(folder).free
        if nbytes and nbytes + MIN_FREE_BYTES > free:
            raise CapacityError(
                f"{folder}: {nbytes / 1e9:.1f} GB are missing and {free / 1e9:.1f} GB are free, of which "
                f"{MIN_FREE_BYTES / 1e9:.0f} GB stay free: make room, take a smaller quantisation, or name another "
                "disk with HF_HOME or --to"
            )


def verify(file: RemoteFile, path: Path, on_bytes: Callable[[int], None]) -> None:
    """Of a file that somebody else wrote. Raises DownloadError for other bytes; the file is left as it is."""
    found = path.stat().st_size
    if found != file.nbytes:
        raise DownloadError(f"{path}: has {found} bytes instead of {file.nbytes}; remove it and run the command again")
    digest = digest_of(path, file, on_bytes)
    if digest != file.digest:
        raise DownloadError(
            f"{path}: has checksum {digest[:16]}… instead of {file.digest[:16]}…; remove it and run the command again"
        )


class _Work:
    """One job while it runs. The thread that completes its last segment verifies it."""

    def __init__(self, job: Job, partial: Partial, progress: Progress) -> None:
        self.job, self.partial, self.progress = job, partial, progress
        self._lock = threading.Lock()
        progress.add(received=partial.nbytes_here)
        self._pending = set(self.indices())

    def indices(self) -> list[int]:
        """Of segments that are not complete."""
        starts = ((index, *self.partial.missing(index)) for index in range(self.partial.num_segments))
        return [index for index, start, stop in starts if start < stop]

    def segment(self, index: int, stop: threading.Event) -> None:
        file = self.job.file
        patience = Patience(f"{file.repo}: {file.path}", stop)
        with _room(self.job), in_one_line(file.repo, file.path):
            while (missing := self.partial.missing(index))[0] < missing[1]:
                if stop.is_set():
                    return
                self._fetch(index, missing, patience, stop)
        with self._lock:
            self._pending.discard(index)
            is_last = not self._pending
        if is_last:
            self.finish()

    def finish(self) -> None:
        with _room(self.job):
            digest = self.partial.digest(self.progress.add_verified)
            if digest != self.job.file.digest:
                self.partial.discard()
                raise wrong_bytes(self.job.file, digest)
            self.job.target.parent.mkdir(parents=True, exist_ok=True)
            self.partial.finish(self.job.target)

    def _fetch(self, index: int, missing: tuple[int, int], patience: Patience, stop: threading.Event) -> None:
        try:
            for chunk in stream(self.job.file, *missing):
                self.partial.write(index, chunk)
                self.progress.add(received=len(chunk))
                patience.progress()
                if stop.is_set():
                    return
        except (TransientError, transport_error()) as error:
            if getattr(error, "response", None) is not None:
                raise
            patience.failed(error)


@contextmanager
def _work(job: Job, progress: Progress) -> Iterator[_Work]:
    from filelock import FileLock, Timeout  # noqa: PLC0415

    with _room(job):
        job.part.parent.mkdir(parents=True, exist_ok=True)
        job.lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(job.lock, timeout=0), _room(job), Partial(job.part, job.file) as partial:
            yield _Work(job, partial, progress)
    except Timeout:
        raise DownloadError(
            f"{job.file.repo}: another program is downloading {job.file.path} now; wait for it, or end it"
        ) from None


@contextmanager
def _room(job: Job) -> Iterator[None]:
    """A full disk and a folder that cannot be written, in our words."""
    try:
        yield
    except transport_error():
        raise
    except OSError as error:
        folder = job.part.parent
        if error.errno in NO_ROOM:
            raise CapacityError(
                f"{folder}: no room is left; what came so far is kept: make room and run again"
            ) from None
        raise ConfigError(f"{folder}: cannot be written: {error.strerror or error}") from None


def _or_stop(stop: threading.Event, run: Callable[..., None], *args: Any) -> None:
    """run(*args); if it fails, nobody begins anything more."""
    try:
        run(*args)
    except BaseException:
        stop.set()
        raise


@contextmanager
def _pool(connections: int, stop: threading.Event) -> Iterator[ThreadPoolExecutor]:
    """Threads that end soon after the block is left by an error or Ctrl-C."""
    pool = ThreadPoolExecutor(connections, thread_name_prefix="download")
    try:
        yield pool
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _watch(futures: list[Future[None]], progress: Progress, on_progress: OnProgress | None) -> None:
    """Report until all are done; raises the first error."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=REPORT_SECONDS, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
        if on_progress is not None:
            on_progress(progress)
