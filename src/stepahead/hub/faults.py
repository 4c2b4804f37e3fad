"""What goes wrong between here and a hub, in one line each, with the way out.

Owns the translation of the library's errors. Must not know: what was being asked for beyond its name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stepahead.errors import ConfigError, DownloadError, StepaheadError

TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
EXTRA = 'the hub needs the extra "hub": pip install "stepahead[hub]"'


class TransientError(Exception):
    """Another try may help. wait: seconds that the server asked for; None: it did not say."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


def transport_error() -> type[Exception]:
    """The base of all that the HTTP client raises: which client it is depends on the library's version."""
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    return HfHubHTTPError.__bases__[0]


def demand_library() -> None:
    """Raises ConfigError if the extra is not installed."""
    try:
        import huggingface_hub  # noqa: F401, PLC0415
    except ImportError:
        raise ConfigError(EXTRA) from None


@contextmanager
def in_one_line(repo: str, what: str) -> Iterator[None]:
    """Errors of the library as ours. `what` was asked of `repo`: a file's path, or "the listing"."""
    from huggingface_hub.errors import OfflineModeIsEnabled  # noqa: PLC0415

    try:
        yield
    except StepaheadError:
        raise
    except OfflineModeIsEnabled:
        raise ConfigError(
            f"{repo}: HF_HUB_OFFLINE is set, so no hub is asked: unset it, use a name of `stepahead list`, or install "
            "a folder with `stepahead pull --from DIR`"
        ) from None
    except transport_error() as error:
        raise _explained(repo, what, error) from error


def check_status(response: Any, repo: str, what: str) -> None:
    """Raises TransientError, or what the user is told, for a status that is no success."""
    status = int(response.status_code)
    if status in TRANSIENT_STATUS:
        raise TransientError(f"the server answers {status}", retry_after(response))
    if status >= 400:
        raise of_status(repo, what, status, response.headers)


def retry_after(response: Any) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() and len(text) < 6 else None


def of_status(repo: str, what: str, status: int, headers: Any) -> StepaheadError:
    """The error that a status of 400 or more is, once no other try helps."""
    code = headers.get("X-Error-Code", "")
    page = f"{endpoint()}/{repo}"
    if code == "GatedRepo":
        return ConfigError(
            f"{repo}: its owner asks for consent first: accept at {page}, then set HF_TOKEN or run `hf auth login`"
        )
    if code == "RevisionNotFound":
        return ConfigError(f"{repo}: has no such revision; see {page}")
    if code == "EntryNotFound" or (status == 404 and what != "the listing"):
        return ConfigError(f"{repo}: has no {what} any more; `stepahead pull {repo}` lists what there is")
    if status in (401, 403, 404):
        return ConfigError(
            f"{repo}: no such repository, or a private one ({status} from {endpoint()}): check the name; for a private "
            "or gated one set HF_TOKEN or run `hf auth login`"
        )
    if status == 416:
        return DownloadError(f"{repo}: the server has fewer bytes of {what} than its listing says; try again later")
    return DownloadError(f"{repo}: {endpoint()} answers {status} for {what}; try again later")


def endpoint() -> str:
    """The hub: HF_ENDPOINT, or the public one."""
    from huggingface_hub import constants  # noqa: PLC0415

    return str(constants.ENDPOINT)


def is_offline() -> bool:
    """HF_HUB_OFFLINE."""
    from huggingface_hub import constants  # noqa: PLC0415

    return constants.is_offline_mode()


def _explained(repo: str, what: str, error: Exception) -> StepaheadError:
    response = getattr(error, "response", None)
    if response is not None:
        return of_status(repo, what, int(response.status_code), response.headers)
    kind = type(error).__name__
    return DownloadError(
        f"{repo}: {endpoint()} cannot be reached for {what} ({kind}: {str(error)[:200] or 'no details'}): check the "
        "network, HF_ENDPOINT and the proxy's variables"
    )
