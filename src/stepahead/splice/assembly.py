"""A model put together from the tensors of open files: read like a file, before there is one.

So the loader can say what it thinks of the outcome, and nothing is written that does not load.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import cast

from stepahead.backends.base import Backend
from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.gguf import FileIdentity, FileRange, GGUFFile, TensorData, TypedValue
from stepahead.gguf.block_quants import Bytes
from stepahead.models.registry import load_model


class Assembly(GGUFFile):
    """`pairs`, and of each name the tensor that its file has. Lives as long as its files are open."""

    def __init__(self, label: str, pairs: Mapping[str, TypedValue], sources: Mapping[str, GGUFFile]) -> None:
        """label: what messages call it, for it has no path."""
        first = next(iter(sources.values()))
        self.path, self.shards = Path(label), ()
        self.version, self.alignment = 3, first.alignment
        self.metadata = MappingProxyType({key: pair.value for key, pair in pairs.items()})
        self.tensors = MappingProxyType({name: file.tensors[name] for name, file in sources.items()})
        self._pairs, self._sources = dict(pairs), dict(sources)

    def typed_metadata(self) -> dict[str, TypedValue]:
        return dict(self._pairs)

    def data(self, name: str) -> Bytes:
        self._info(name)
        return self._sources[name].data(name)

    def range(self, name: str) -> FileRange:
        self._info(name)
        return self._sources[name].range(name)

    def release(self, name: str, start: int, stop: int) -> None:
        self._sources[name].release(name, start, stop)

    def identity(self) -> tuple[FileIdentity, ...]:
        raise AssertionError("is no file yet: nothing may be kept for it")

    def close(self) -> None:
        """The files are closed by whoever opened them."""

    def ranges(self) -> dict[str, TensorData]:
        """All tensors, as write_gguf copies them."""
        return {name: TensorData(info.type, info.shape, self.range(name)) for name, info in self.tensors.items()}

    def demand_loadable(self, heads: "Assembly | None") -> None:
        """Raises what the loader raises. It reads headers and vectors: matrices are read when they are multiplied.

        heads: as from a companion, which may be this model under another name: of heads in the same file the loader
        leaves what it does not know.
        """
        load_model(self, cast(Backend, ReferenceBackend(int8_activations=True)), heads)

    def again(self) -> "Assembly":
        return Assembly(str(self.path), self._pairs, self._sources)
