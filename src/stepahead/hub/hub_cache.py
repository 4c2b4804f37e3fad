"""The cache that programs of the hub share: blobs by checksum, snapshots of commits that link to them.

We write what its library would have written, only later: a blob gets its name once it is verified. Layout:
https://huggingface.co/docs/huggingface_hub/guides/manage-cache
"""

import os
import secrets
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from stepahead.errors import ConfigError
from stepahead.hub.download import Job
from stepahead.hub.partial import ENDING
from stepahead.hub.remote_file import RemoteFile, is_safe_path
from stepahead.hub_folder import hub_folder


def cache_job(file: RemoteFile, is_trusted: bool) -> Job:
    """The download of a blob. The lock is the library's own, so the two do not write one file at once.

    Where there are no links, a file that is there already lies in the snapshot itself.
    """
    blob, pointer = blob_path(file), pointer_path(file)
    target = pointer if pointer.exists() and not blob.exists() else blob
    lock = hub_folder() / ".locks" / _repo_folder(file.repo).name / f"{file.digest}.lock"
    return Job(file, blob.with_name(f"{file.digest}.stepahead{ENDING}"), target, lock, is_trusted)


def blob_path(file: RemoteFile) -> Path:
    return _repo_folder(file.repo) / "blobs" / file.digest


def pointer_path(file: RemoteFile) -> Path:
    """The name under which a blob is opened; shards of a model are beside each other."""
    assert is_safe_path(file.path)
    return _repo_folder(file.repo) / "snapshots" / file.revision / Path(*file.path.split("/"))


def link_blob(file: RemoteFile) -> Path:
    """Make the snapshot's entry of a blob that is there, and return it."""
    blob, pointer = blob_path(file), pointer_path(file)
    if pointer.exists() and pointer.samefile(blob):
        return pointer
    pointer.parent.mkdir(parents=True, exist_ok=True)
    pointer.unlink(missing_ok=True)
    try:
        pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:  # no links here: the snapshot holds the file itself, as the library does it
        try:
            os.link(blob, pointer)
        except OSError:
            blob.replace(pointer)
    return pointer


def note_branch(repo: str, branch: str | None, revision: str) -> None:
    """Which commit a branch was, so that other programs find the files when offline."""
    if branch is None or not is_safe_path(branch):
        return
    ref = _repo_folder(repo) / "refs" / branch
    ref.parent.mkdir(parents=True, exist_ok=True)
    temporary = ref.with_name(f"{ref.name}.{secrets.token_hex(4)}.tmp")
    temporary.write_text(revision)
    temporary.replace(ref)


def remove_from_cache(pointers: Iterable[Path]) -> int:
    """Take entries out of snapshots, with what no other entry uses; the bytes that came free.

    A commit of which nothing is left goes as a whole. Raises ConfigError for a cache that cannot be read.
    """
    from huggingface_hub import scan_cache_dir  # noqa: PLC0415
    from huggingface_hub.errors import CacheNotFound  # noqa: PLC0415

    wanted = {os.path.normpath(path) for path in pointers}
    try:
        cache = scan_cache_dir(hub_folder())
    except (CacheNotFound, ValueError):
        return 0
    revisions = [revision for repo in cache.repos for revision in repo.revisions]
    paths = {revision: {os.path.normpath(file.file_path) for file in revision.files} for revision in revisions}
    # A commit is removed by its hash alone, which a renamed repository shares with its older self.
    commits = Counter(revision.commit_hash for revision in revisions)
    whole = [one for one in revisions if paths[one] and paths[one] <= wanted and commits[one.commit_hash] == 1]
    single = [
        file
        for revision in revisions
        if revision not in whole
        for file in revision.files
        if os.path.normpath(file.file_path) in wanted
    ]
    found = {path for revision in revisions for path in paths[revision]}
    lost = [path for path in wanted if Path(path).exists() and path not in found]
    if lost:
        raise ConfigError(f"{lost[0]}: is in a cache that cannot be read; remove its repository's folder by hand")
    freed = 0
    for strategy in (
        cache.delete_revisions(*(revision.commit_hash for revision in whole)) if whole else None,
        cache.delete_files(*single) if single else None,
    ):
        if strategy is not None:
            freed += strategy.expected_freed_size
            strategy.execute()
    return freed


def _repo_folder(repo: str) -> Path:
    return hub_folder() / f"models--{repo.replace('/', '--')}"
