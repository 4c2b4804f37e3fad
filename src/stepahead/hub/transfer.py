"""Bytes of a file on a hub, a range at a time: what is resumed, read in parts, or read by several at once.

Owns the requests and the check that a server sends what was asked for. Must not know: where bytes go.
"""

import re
from collections.abc import Iterator
from typing import Any

from stepahead import __version__
from stepahead.errors import DownloadError
from stepahead.hub.faults import TransientError, check_status, in_one_line, transport_error
from stepahead.hub.patience import Patience
from stepahead.hub.remote_file import RemoteFile

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


MAX_SKIPPED = 256 << 20
"""Of a server without ranges: bytes that are read again to get at those behind them."""


def stream(file: RemoteFile, start: int, stop: int) -> Iterator[bytes]:
    """Bytes [start, stop) in pieces, from one request; may end early, and then raises TransientError.

    Raises also what the HTTP client raises, and for the rest what a user is told.
    """
    from huggingface_hub import constants, get_session, hf_hub_url  # noqa: PLC0415
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # noqa: PLC0415

    headers = build_hf_headers(library_name="stepahead", library_version=__version__)
    # No compression: a range is one of the file's bytes.
    headers |= {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    url = hf_hub_url(file.repo, file.path, revision=file.revision, endpoint=constants.ENDPOINT)
    with get_session().stream(
        "GET", url, headers=headers, follow_redirects=True, timeout=float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    ) as response:
        check_status(response, file.repo, file.path)
        skip, left = start - _first_byte(response, file, start), stop - start
        for chunk in response.iter_bytes():  # as they come: larger ones would be lost with their connection
            wanted = chunk[skip : skip + left]
            skip -= min(skip, len(chunk))
            if wanted:
                yield wanted
            left -= len(wanted)
            if left <= 0:
                return
    raise TransientError(f"the server ended {left} bytes early")


def read_range(file: RemoteFile, start: int, stop: int) -> bytes:
    """Bytes [start, stop), in memory."""
    if start >= stop:
        return b""
    found, patience = bytearray(), Patience(f"{file.repo}: {file.path}")
    with in_one_line(file.repo, file.path):
        while len(found) < stop - start:
            try:
                for chunk in stream(file, start + len(found), stop):
                    found += chunk
                    patience.progress()
            except (TransientError, transport_error()) as error:
                patience.failed(error)
    return bytes(found)


def _first_byte(response: Any, file: RemoteFile, start: int) -> int:
    """Where in the file the answer begins. Raises DownloadError for a file of another size than listed."""
    if response.status_code == 200:  # a server without ranges sends it all
        length = response.headers.get("Content-Length")
        if length is not None and length != str(file.nbytes):
            raise _wrong_size(file, length)
        if start > MAX_SKIPPED:
            raise DownloadError(
                f"{file.repo}: the server knows no ranges, so {file.path} cannot be read in parts or resumed: fetch it "
                "with another program and give its path"
            )
        return 0
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status_code != 206 or match is None:
        raise TransientError(f"the server answers {response.status_code} without a range")
    if match[3] not in ("*", str(file.nbytes)):
        raise _wrong_size(file, match[3])
    if int(match[1]) != start:
        raise TransientError(f"the server sends bytes from {match[1]} instead of {start}")
    return start


def _wrong_size(file: RemoteFile, found: str) -> DownloadError:
    return DownloadError(
        f"{file.repo}: {file.path} has {found} bytes on the server, its listing says {file.nbytes}: the file is being "
        "changed, or the mirror is stale; try again later"
    )
