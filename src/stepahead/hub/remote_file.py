"""A file on a hub, as its listing describes it. What a server says is checked here, before a path is made of it."""

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from stepahead.errors import DownloadError

MAX_NAME_BYTES = 240  # of one part of a path; we add endings of our own
MAX_PATH_BYTES = 1000
MAX_FILE_BYTES = 1 << 43  # eight times the largest models there are
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_BAD_NAME = re.compile(r"[\\:*?\"<>|]")
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's categories of what a terminal obeys instead of showing, and of halves of characters."""


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
        raise DownloadError(
            f"{where} has a file whose name leads elsewhere or cannot be shown: {str(path)[:200]!a}; nothing was "
            "written"
        )
    if not isinstance(nbytes, int) or isinstance(nbytes, bool) or not 0 <= nbytes <= MAX_FILE_BYTES:
        raise DownloadError(f"{where} gives no size for {path} that a file can have: {str(nbytes)[:80]}")
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
    if _BAD_NAME.search(path) or any(unicodedata.category(char) in _UNSEEN for char in path):
        return False
    parts = path.split("/")
    return len(path.encode()) <= MAX_PATH_BYTES and all(
        part not in ("", ".", "..") and not part.endswith((" ", ".")) and len(part.encode()) <= MAX_NAME_BYTES
        for part in parts
    )
