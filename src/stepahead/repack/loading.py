"""Loads a model with its matrices in the layouts that the backend prefers.

Owns the question which matrices those are, and what is said when they cannot be had: the model runs all the same,
from its file. Must not know: how a layout is made, how and where it is kept.
"""

import logging

from stepahead.backends.base import PLAIN, Backend
from stepahead.errors import StepaheadError
from stepahead.gguf import GGUFFile, QuantType
from stepahead.gguf.block_quants import Bytes
from stepahead.models.model import Model
from stepahead.models.registry import load_model
from stepahead.models.weights import FILES, FileSource
from stepahead.repack.cache_file import UnusableError
from stepahead.repack.folders import NEVER, check_choice
from stepahead.repack.head_types import head_matrices
from stepahead.repack.repacked import OnRepack, Repacked, find_repacked, repack
from stepahead.repack.source import HostSource, MadeSource, Matrices, ToldSource

log = logging.getLogger("stepahead")

FILE_TYPE = "file"

Layouts = dict[str, str]
"""Of tensors, by name."""


class Survey(FileSource):
    """Gives the files' own bytes, and notes which matrices the backend would rather have in which layout."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.wanted: dict[GGUFFile, Layouts] = {}

    def matrix(self, file: GGUFFile, name: str, parts: tuple[tuple[int, ...], ...]) -> tuple[Bytes, str, QuantType]:
        type = file.tensors[name].type
        layouts = {self._backend.preferred_layout(type, part) for part in parts}
        if len(layouts) == 1 and layouts != {PLAIN}:
            self.wanted.setdefault(file, {})[name] = layouts.pop()
        return super().matrix(file, name, parts)


def load_repacked(
    file: GGUFFile,
    backend: Backend,
    heads: GGUFFile | None,
    choice: str,
    on_repack: OnRepack | None = None,
    draft_type: str = FILE_TYPE,
    on_host: Layouts | None = None,
) -> tuple[Model, tuple[Repacked, ...]]:
    """As load_model, and what was repacked, by file. `choice` is "auto", "never" or the folder for cache files;
    draft_type the type of the heads' large matrices, "file" for their own; on_host: matrices of `file` that a backend
    with a memory of its own leaves in the host's, and in which layouts they are multiplied fastest there. A cache file
    that has those is used, and none is written: it would be in the way of one that has all matrices.

    Raises ConfigError for another choice, and what load_model raises. What cannot be repacked is a warning.
    """
    check_choice(choice)
    wanted = {} if choice == NEVER else survey(file, backend, heads)
    repacked: dict[GGUFFile, Repacked] = {}
    for source, layouts in wanted.items():
        try:
            repacked[source] = repack(source, layouts, backend, choice, on_repack or _ignore)
        except (OSError, UnusableError) as error:
            log.warning(
                "%s: its weights are not repacked, which is slower: %s; give a folder with --repack DIR (repack=)",
                source.path,
                error,
            )
    made = {source: found.matrices for source, found in repacked.items()}
    if heads is not None and draft_type != FILE_TYPE:
        made[heads] = made.get(heads, {}) | _small_heads(heads, QuantType[draft_type], backend, choice, on_repack)
    matrices = MadeSource(made) if made else FILES
    if on_host:
        layouts = {name: layout for name, layout in on_host.items() if layout != PLAIN}
        matrices = HostSource(matrices, file, on_host, {} if choice == NEVER else find_repacked(file, layouts, choice))
    if backend.own_memory is not None:
        matrices = ToldSource(matrices, file, heads, on_repack or _ignore)
    return load_model(file, backend, heads, matrices), tuple(repacked.values())


def _small_heads(
    heads: GGUFFile, type: QuantType, backend: Backend, choice: str, on_repack: OnRepack | None
) -> Matrices:
    try:
        return head_matrices(heads, type, backend, None if choice == NEVER else choice, on_repack or _ignore)
    except (OSError, UnusableError) as error:
        log.warning("%s: its heads keep the types of the file: %s", heads.path, error)
        return {}


def survey(file: GGUFFile, backend: Backend, heads: GGUFFile | None) -> dict[GGUFFile, Layouts]:
    """The wanted layouts of the matrices that the model's own walk asks for."""
    tensors = [*file.tensors.values(), *(heads.tensors.values() if heads is not None else ())]
    if all(backend.preferred_layout(info.type, info.shape) == PLAIN for info in tensors):
        return {}
    if heads is None:
        # A later run may want the file's own heads, and would have to write everything again.
        noted = Survey(backend)
        try:
            load_model(file, backend, file, noted)
        except StepaheadError:  # whatever is wrong with them is not asked for now
            pass
        else:
            return noted.wanted
    noted = Survey(backend)
    load_model(file, backend, heads, noted)
    return noted.wanted


def _ignore(*_: object) -> None:
    pass
