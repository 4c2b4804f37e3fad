"""Headers of models on a hub: their first bytes are read, no weights."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stepahead.errors import DownloadError, StepaheadError
from stepahead.gguf.header import Header
from stepahead.gguf.prefix import read_prefix
from stepahead.hub.header_facts import HeaderFacts, header_facts
from stepahead.hub.model_files import ModelFiles
from stepahead.hub.remote_file import RemoteFile
from stepahead.hub.transfer import read_range

FIRST_BYTES = 8 << 20  # a header with a vocabulary of 129,000 is about 5 MB
LATER_BYTES = 256 << 10  # of a shard after the first, which has none
GROWTH = 4
MAX_BYTES = 128 << 20
READERS = 4

ReadRange = Callable[[RemoteFile, int, int], bytes]


def remote_facts(model: ModelFiles, read: ReadRange = read_range) -> HeaderFacts:
    """Raises DownloadError for a hub that fails, ModelFormatError and UnsupportedModelError for the file's faults."""
    first = _header(model.files[0], FIRST_BYTES, read)
    path = Path(model.path)
    facts = header_facts(path, first.metadata, first.tensors.items())
    if len(model.files) == 1:
        return facts
    # Where heads may lie nobody says, so the later shards' headers are read, too.
    later = [_header(file, LATER_BYTES, read) for file in model.files[1:]]
    tensors = itertools.chain(first.tensors.items(), *(header.tensors.items() for header in later))
    return header_facts(path, first.metadata, tensors)


def facts_of_all(
    models: Sequence[ModelFiles], read: ReadRange = read_range
) -> list[tuple[ModelFiles, HeaderFacts | None, str | None]]:
    """(model, facts, None) or (model, None, fault) of each, several at once."""

    def one(model: ModelFiles) -> tuple[ModelFiles, HeaderFacts | None, str | None]:
        try:
            return model, remote_facts(model, read), None
        except StepaheadError as error:
            return model, None, str(error)

    with ThreadPoolExecutor(READERS, thread_name_prefix="headers") as pool:
        return list(pool.map(one, models))


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
