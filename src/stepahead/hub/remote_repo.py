"""A repository on a hub: its commit, its files with sizes and checksums, and the model that it was made from."""

from dataclasses import dataclass
from typing import Any

from stepahead import __version__
from stepahead.errors import ConfigError, DownloadError
from stepahead.hub.faults import TRANSIENT_STATUS, TransientError, in_one_line, retry_after, transport_error
from stepahead.hub.patience import patiently
from stepahead.hub.remote_file import RemoteFile, checked_file, checked_revision

LISTING_SECONDS = 60.0
MAX_FILES = 50_000
MAX_BASES = 8


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
    with in_one_line(name, "the listing"):
        info = patiently(f"{name}: the listing", lambda: _ask(name, revision))
    commit = checked_revision(name, info.sha)
    siblings = info.siblings or []
    if len(siblings) > MAX_FILES:
        raise DownloadError(f"{name}: lists {len(siblings)} files, more than the {MAX_FILES} that are looked through")
    files = [_file(name, commit, one) for one in siblings if str(one.rfilename).lower().endswith(".gguf")]
    files.sort(key=lambda file: file.path)
    branch = None if revision == commit else (revision or "main")
    return RemoteRepo(name, commit, branch, tuple(files), _bases(info.card_data))


def _ask(name: str, revision: str | None) -> Any:
    from huggingface_hub import HfApi  # noqa: PLC0415
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    try:
        return HfApi(library_name="stepahead", library_version=__version__).model_info(
            name, revision=revision, files_metadata=True, timeout=LISTING_SECONDS
        )
    except transport_error() as error:
        response = getattr(error, "response", None)
        if response is not None and response.status_code in TRANSIENT_STATUS:
            raise TransientError(f"the hub answers {response.status_code}", retry_after(response)) from error
        raise
    except HFValidationError as error:
        raise ConfigError(f"{name!r} is no repository's name: {error}") from None
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:  # what the library makes of other JSON
        raise DownloadError(
            f"{name}: the hub's answer is no listing ({type(error).__name__}: {str(error)[:100]}); does HF_ENDPOINT "
            "name a hub?"
        ) from error


def _file(name: str, commit: str, sibling: Any) -> RemoteFile:
    lfs = sibling.lfs
    if lfs is None:
        return checked_file(name, commit, sibling.rfilename, sibling.size, sibling.blob_id)
    return checked_file(name, commit, sibling.rfilename, lfs.size, lfs.sha256)


def _bases(card: Any) -> tuple[str, ...]:
    """Written by people: a name, several, or something else."""
    base = getattr(card, "base_model", None)
    names = [base] if isinstance(base, str) else base if isinstance(base, list) else []
    return tuple(name for name in names if isinstance(name, str))[:MAX_BASES]
