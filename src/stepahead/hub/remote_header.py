"""Headers of models on a hub: their first bytes are read, no weights."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from stepahead.errors import DownloadError, StepaheadError
from stepahead.gguf.header import Header
from stepahead.gguf.prefix import read_prefix
from stepahead.hub.header_facts import HeaderFacts, header_facts
from stepahead.hub.model_files import ModelFiles
from stepahead.hub.remote_file import RemoteFile
from stepahead.hub.transfer import read_range
from stepahead.hub.unread_model import UnreadModel

FIRST_BYTES = 8 << 20  # a header with a vocabulary of 129,000 is about 5 MB
LATER_BYTES = 256 << 10  # of a shard after the first, which has none
GROWTH = 4
MAX_BYTES = 128 << 20
READERS = 4

ReadRange = Callable[[RemoteFile, int, int], bytes]


def remote_facts(model: ModelFiles, read: ReadRange = read_range) -> HeaderFacts:
    """Raises DownloadError for a hub that fails, ModelFormatError and UnsupportedModelError for the file's faults."""
    return _facts(remote_model(model, read))


def remote_model(model: ModelFiles, read: ReadRange = read_range) -> UnreadModel:
    """Raises as remote_facts. Where heads may lie nobody says, so the headers of all shards are read."""
    first, *later = model.files
    headers = [_header(first, FIRST_BYTES, read), *(_header(file, LATER_BYTES, read) for file in later)]
    return UnreadModel(model.path, headers)


@dataclass(frozen=True, slots=True, eq=False)
class ReadHeader:
    """Of one model of a repository; unread and facts None: `fault` says why."""

    model: ModelFiles
    unread: UnreadModel | None
    facts: HeaderFacts | None
    fault: str | None


def headers_of_all(models: Sequence[ModelFiles], read: ReadRange = read_range) -> list[ReadHeader]:
    """Several at once."""

    def one(model: ModelFiles) -> ReadHeader:
        try:
            unread = remote_model(model, read)
            return ReadHeader(model, unread, _facts(unread), None)
        except StepaheadError as error:
            return ReadHeader(model, None, None, str(error))

    with ThreadPoolExecutor(READERS, thread_name_prefix="headers") as pool:
        return list(pool.map(one, models))


def _facts(unread: UnreadModel) -> HeaderFacts:
    return header_facts(unread.path, unread.metadata, unread.tensors.items())


def _header(file: RemoteFile, first_bytes: int, read: ReadRange) -> Header:
    """Fetched in steps, until it is whole."""
    found, wanted = b"", first_bytes
    while True:
        stop = min(wanted, file.nbytes)
        found += read(file, len(found), stop)
        header = read_prefix(found, file.nbytes, Path(file.path))
        if header is not None:
            return header
        if stop == file.nbytes or wanted >= MAX_BYTES:
            raise DownloadError(f"{file.repo}: {file.path}: its header has no end within {stop} bytes")
        wanted *= GROWTH
