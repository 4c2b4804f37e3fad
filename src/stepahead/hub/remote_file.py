"""A file on a hub, as its listing describes it. What a server says is checked here, before a path is made of it."""

import re
from dataclasses import dataclass
from typing import Any

from stepahead.errors import DownloadError

MAX_NAME_BYTES = 240  # of one part of a path; we add endings of our own
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_BAD_NAME = re.compile(r"[\x00-\x1f\x7f\\:*?\"<>|]")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """digest: SHA-256 of the bytes, or, of a file that git itself keeps, its 40 digits of SHA-1 with git's prefix."""

    repo: str
    revision: str  # a commit
    path: str  # relative, with slashes
    nbytes: int
    digest: str

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1]

    @property
    def is_sha256(self) -> bool:
        return len(self.digest) == 64


def checked_file(repo: str, revision: str, path: Any, nbytes: Any, digest: Any) -> RemoteFile:
    """Raises DownloadError for a listing that no honest hub sends."""
    where = f"{repo}: the hub's listing"
    if not isinstance(path, str) or not is_safe_path(path):
        raise DownloadError(f"{where} has a file whose name leads elsewhere: {str(path)[:200]!r}; nothing was written")
    if not isinstance(nbytes, int) or isinstance(nbytes, bool) or nbytes < 0:
        raise DownloadError(f"{where} gives no size for {path}: {nbytes!r}")
    if not isinstance(digest, str) or not (_SHA256.fullmatch(digest) or _SHA1.fullmatch(digest)):
        raise DownloadError(f"{where} gives no checksum for {path}: {str(digest)[:80]!r}")
    return RemoteFile(repo, checked_revision(repo, revision), path, nbytes, digest)


def checked_revision(repo: str, revision: Any) -> str:
    """A commit, which becomes the name of a folder."""
    if not isinstance(revision, str) or not _SHA1.fullmatch(revision):
        raise DownloadError(f"{repo}: the hub names a commit that is none: {str(revision)[:80]!r}")
    return revision


def is_safe_path(path: str) -> bool:
    """Whether a relative path stays below the folder that it is joined to, on any system."""
    parts = path.split("/")
    return not _BAD_NAME.search(path) and all(
        part not in ("", ".", "..") and not part.endswith((" ", ".")) and len(part.encode()) <= MAX_NAME_BYTES
        for part in parts
    )
