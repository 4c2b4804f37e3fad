"""A folder that carries a model to a machine without a network: its files, SHA256SUMS, and what they are.

Owns the folder's form. Files keep their names, without the repository's folders; the description is written last, so
that a folder with one is whole.
"""

import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from stepahead.errors import CapacityError, ConfigError, DownloadError
from stepahead.hub import registry
from stepahead.hub.download import CONNECTIONS, Job, OnProgress, Progress, download, verify
from stepahead.hub.hub_cache import blob_path, link_blob
from stepahead.hub.partial import ENDING
from stepahead.hub.pull import Plan, check_pair, checked_name
from stepahead.hub.reference import Reference
from stepahead.hub.registry import PulledFile, PulledModel, pulled_file
from stepahead.hub.remote_file import RemoteFile, checked_file
from stepahead.repack.folders import MIN_FREE_BYTES
from stepahead.repack.temporary import replacing

SUMS = "SHA256SUMS"
DESCRIPTION = "stepahead-model.json"


def write_bundle(
    wanted: Plan, folder: Path, connections: int = CONNECTIONS, on_progress: OnProgress | None = None
) -> PulledModel:
    """Download into `folder`, which may hold an interrupted bundle of the same model. Nothing is registered."""
    _check_target(wanted, folder)
    jobs = [_job(file, folder) for file in wanted.files]
    for job in jobs:
        _take_from_cache(job)
    download(jobs, connections, on_progress)
    files, heads = ([pulled_file(file, folder / file.name) for file in part] for part in _parts(wanted))
    check_pair(files, heads)
    model = PulledModel(
        name=wanted.name,
        repo=wanted.repo.name,
        revision=wanted.repo.revision,
        label=wanted.model.label,
        files=tuple(replace(file, local=Path(file.local).name) for file in files),
        heads=tuple(replace(file, local=Path(file.local).name) for file in heads),
        verdict=wanted.heads.verdict,
        pulled_at=registry.now(),
        branch=wanted.repo.branch,
    )
    sums = "".join(f"{file.digest}  {file.local}\n" for file in model.all_files if file.remote.is_sha256)
    for name, text in ((SUMS, sums), (DESCRIPTION, registry.to_json(model))):
        with replacing(folder / name, 0o644) as file:
            file.write(text.encode())
    for job in jobs:
        job.lock.unlink(missing_ok=True)
    return replace(model, files=tuple(files), heads=tuple(heads))


def read_bundle(folder: Path) -> PulledModel:
    """What a folder says of itself. Raises ConfigError for one that is none, DownloadError for one that is damaged."""
    path = folder / DESCRIPTION
    if not path.is_file():
        what = "an interrupted one: write it again" if any(folder.glob(f".*{ENDING}")) else "write one with --to"
        raise ConfigError(f"{folder}: has no {DESCRIPTION}, so it is no folder of a model, or {what}")
    try:
        if path.stat().st_size > registry.MAX_BYTES:
            raise ValueError("too large")
        model = registry.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DownloadError(f"{path}: is damaged ({type(error).__name__}: {str(error)[:100]}); copy it again") from None
    for file in model.all_files:
        Reference.parse(file.repo)
        checked_file(file.repo, file.revision, file.path, file.nbytes, file.digest)
        if file.local != file.remote.name:
            raise DownloadError(f"{path}: names {file.local!r} for {file.path}: it was changed; nothing was installed")
    return model


def install(folder: Path, on_progress: OnProgress | None = None, name: str | None = None) -> PulledModel:
    """Verify a bundle, put its files into the hub's cache (by hard links where that is possible) and register it."""
    model = read_bundle(folder)
    _check_sums(folder, model)
    _check_copies(folder, model.all_files)
    progress = Progress(model.nbytes, received=model.nbytes)

    def on_bytes(count: int) -> None:
        progress.add_verified(count)
        if on_progress is not None:
            on_progress(progress)

    for file in model.all_files:
        source = folder / file.local
        _check_regular(source)
        verify(file.remote, source, on_bytes)
    installed = replace(
        model,
        name=checked_name(name or model.name),
        files=tuple(_install(folder, file) for file in model.files),
        heads=tuple(_install(folder, file) for file in model.heads),
        pulled_at=registry.now(),
    )
    check_pair(installed.files, installed.heads)
    registry.save(installed)
    return installed


def _install(folder: Path, file: PulledFile) -> PulledFile:
    """Into the cache: linked or copied under another name, verified again if copied, and then named."""
    blob = blob_path(file.remote)
    if not blob.exists():
        blob.parent.mkdir(parents=True, exist_ok=True)
        part = blob.with_name(f"{file.digest}.stepahead-copy{ENDING}")
        part.unlink(missing_ok=True)
        if not _hard_link(folder / file.local, part):
            shutil.copyfile(folder / file.local, part)
            verify(file.remote, part, _ignore)
        part.replace(blob)
    elif not registry.is_verified(file.remote):
        verify(file.remote, blob, _ignore)
    return pulled_file(file.remote, link_blob(file.remote))


def _check_target(wanted: Plan, folder: Path) -> None:
    """Raises ConfigError where another model's files would be mixed with these."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--to {folder}: is no folder")
    names = [file.name for file in wanted.files]
    if len(set(names)) < len(names):
        raise ConfigError(f"{wanted.repo.name}: two of its files have one name, so no one folder can hold them")
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(ConfigError):
        other = read_bundle(folder)
        if {file.digest for file in other.all_files} != {file.digest for file in wanted.files}:
            raise DownloadError(f"--to {folder}: holds {other.name} already; give another folder")
        (folder / DESCRIPTION).unlink()


def _job(file: RemoteFile, folder: Path) -> Job:
    part = folder / f".{file.name}{ENDING}"
    return Job(file, part, folder / file.name, folder / f".{file.name}.lock")


def _take_from_cache(job: Job) -> None:
    """What is in the hub's cache need not be fetched; it is verified as everything else is."""
    blob = blob_path(job.file)
    if job.target.exists() or not blob.exists():
        return
    if not _hard_link(blob.resolve(), job.target):
        copy = job.target.with_name(f".{job.target.name}.copy{ENDING}")
        with suppress(OSError):
            shutil.copyfile(blob, copy)
            copy.replace(job.target)
        copy.unlink(missing_ok=True)


def _check_sums(folder: Path, model: PulledModel) -> None:
    """The two lists must agree: one may have been changed by hand."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        raise ConfigError(f"{folder}: has no {SUMS} that can be read; copy the folder again") from None
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    wrong = [file.local for file in model.all_files if file.remote.is_sha256 and listed.get(file.local) != file.digest]
    if wrong:
        raise DownloadError(f"{folder}: {SUMS} and {DESCRIPTION} differ about {wrong[0]}: one of them was changed")


def _check_copies(folder: Path, files: Iterable[PulledFile]) -> None:
    """Raises CapacityError if files that cannot be linked do not fit."""
    needed: dict[Path, int] = {}
    for file in files:
        blob = blob_path(file.remote)
        target = next(parent for parent in blob.parents if parent.exists())
        if not blob.exists() and target.stat().st_dev != folder.stat().st_dev:
            needed[target] = needed.get(target, 0) + file.nbytes
    total = sum(needed.values())
    for target in list(needed)[:1]:
        free = shutil.disk_usage(target).free
        if total + MIN_FREE_BYTES > free:
            raise CapacityError(f"{target}: {total / 1e9:.1f} GB are to be copied and {free / 1e9:.1f} GB are free")


def _check_regular(path: Path) -> None:
    """No link out of the folder is followed."""
    if path.is_symlink() or not path.is_file():
        raise ConfigError(f"{path}: {'is a link' if path.is_symlink() else 'is missing'}; copy the folder again")


def _parts(wanted: Plan) -> tuple[tuple[RemoteFile, ...], tuple[RemoteFile, ...]]:
    return wanted.model.files, tuple(file for one in wanted.heads.heads for file in one.files)


def _hard_link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def _ignore(_: int) -> None:
    pass
