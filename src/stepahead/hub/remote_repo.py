"""A repository on a hub: its commit, its files with sizes and checksums, and the model that it was made from.

The listing is asked for and read here and not by the hub's library, because a server may send anything: its size is
bounded before it is parsed, and every value is checked before it is used.
"""

import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from stepahead import __version__
from stepahead.errors import ConfigError, DownloadError
from stepahead.hub.faults import TransientError, check_status, endpoint, in_one_line
from stepahead.hub.patience import patiently
from stepahead.hub.reference import is_repo_name
from stepahead.hub.remote_file import RemoteFile, checked_file, checked_revision

LISTING_SECONDS = 60.0  # without a byte
MAX_LISTING_SECONDS = 300.0
MAX_LISTING_BYTES = 64 << 20  # of as many files as are looked through, four times over
MAX_FILES = 50_000
MAX_BASES = 8
_A_HUB = "does HF_ENDPOINT name a hub?"
_BAD_REVISION = re.compile(r"^[-/]|\.\.|[\x00-\x20\x7f~^:?*\\\[]|[/.]$")


@dataclass(frozen=True, slots=True)
class RemoteRepo:
    """branch: what was asked for, None for a commit; files: the GGUF files alone; bases: `base_model` of the card."""

    name: str
    revision: str
    branch: str | None
    files: tuple[RemoteFile, ...]
    bases: tuple[str, ...]


def open_repo(name: str, revision: str | None = None) -> RemoteRepo:
    """Ask the hub. ConfigError: no such repository or revision, no access; DownloadError: the hub fails."""
    if not is_repo_name(name):
        raise ConfigError(f"{name[:100]!r} is no repository's name: it is OWNER/NAME")
    if revision is not None and (not 0 < len(revision) <= 250 or _BAD_REVISION.search(revision)):
        raise ConfigError(f"--revision {revision[:100]!r} can be no branch, tag or commit")
    with in_one_line(name, "the listing"):
        body = patiently(f"{name}: the listing", lambda: _ask(name, revision))
    listing = _parsed(name, body)
    commit = checked_revision(name, listing.get("sha"))
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) and commit != revision:
        raise DownloadError(f"{name}: was asked for commit {revision} and answers with {commit}; nothing was fetched")
    files = [_file(name, commit, one) for one in _siblings(name, listing) if one["rfilename"].lower().endswith(".gguf")]
    files.sort(key=lambda file: file.path)
    _check_paths(name, [file.path for file in files])
    branch = None if revision == commit else (revision or "main")
    return RemoteRepo(name, commit, branch, tuple(files), _bases(listing.get("cardData")))


def _ask(name: str, revision: str | None) -> bytes:
    from huggingface_hub import get_session  # noqa: PLC0415
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # noqa: PLC0415

    headers = build_hf_headers(library_name="stepahead", library_version=__version__)
    place = "" if revision is None else f"/revision/{quote(revision, safe='')}"
    url, body, start = f"{endpoint()}/api/models/{name}{place}?blobs=true", bytearray(), time.monotonic()
    with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=LISTING_SECONDS) as response:
        check_status(response, name, "the listing")
        if "next" in response.links:
            raise DownloadError(f"{name}: the listing comes in pages, of which a hub knows nothing; {_A_HUB}")
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > MAX_LISTING_BYTES:
                raise DownloadError(f"{name}: the listing is longer than {MAX_LISTING_BYTES >> 20} MiB; {_A_HUB}")
            if time.monotonic() - start > MAX_LISTING_SECONDS:
                raise TransientError(f"it has not ended after {MAX_LISTING_SECONDS:.0f} s")
    return bytes(body)


def _parsed(name: str, body: bytes) -> dict[str, Any]:
    try:
        listing = json.loads(body)
        if not isinstance(listing, dict):
            raise TypeError(f"{type(listing).__name__} instead of an object")
    except (ValueError, TypeError, RecursionError) as error:
        raise DownloadError(
            f"{name}: the hub's answer is no listing ({type(error).__name__}: {str(error)[:100]}); {_A_HUB}"
        ) from None
    return listing


def _siblings(name: str, listing: dict[str, Any]) -> list[dict[str, Any]]:
    """The files, each with a name at least."""
    found = listing.get("siblings") or []
    if not isinstance(found, list) or not all(
        isinstance(one, dict) and isinstance(one.get("rfilename"), str) for one in found
    ):
        raise DownloadError(f"{name}: the hub's listing has something else than files; {_A_HUB}")
    if len(found) > MAX_FILES:
        raise DownloadError(f"{name}: lists {len(found)} files, more than the {MAX_FILES} that are looked through")
    return found


def _file(name: str, commit: str, sibling: dict[str, Any]) -> RemoteFile:
    lfs = sibling.get("lfs")
    if lfs is None:
        return checked_file(name, commit, sibling["rfilename"], sibling.get("size"), sibling.get("blobId"))
    if not isinstance(lfs, dict):
        lfs = {}
    return checked_file(name, commit, sibling["rfilename"], lfs.get("size"), lfs.get("sha256"))


def _check_paths(name: str, paths: Iterable[str]) -> None:
    """No path twice, and none that is both a file and the folder of another."""
    seen: set[str] = set()
    for path in paths:
        parents = path.split("/")[:-1]
        if path in seen or any("/".join(parents[: count + 1]) in seen for count in range(len(parents))):
            raise DownloadError(f"{name}: the hub's listing names {path} twice, or as a folder; nothing was fetched")
        seen.add(path)


def _bases(card: Any) -> tuple[str, ...]:
    """Written by people: a name, several, or something else."""
    base = card.get("base_model") if isinstance(card, dict) else None
    names = [base] if isinstance(base, str) else base if isinstance(base, list) else []
    return tuple(name for name in names if isinstance(name, str))[:MAX_BASES]
