"""A model file as it would be with a repair: read like any other, nothing on disk is touched."""

from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from stepahead.filecheck.repair import Repair
from stepahead.gguf import FileIdentity, FileRange, GGUFFile, TensorData, TypedValue
from stepahead.gguf.block_quants import Bytes


class PatchedFile(GGUFFile):
    """`base` with one repair; a view of a view has several. Lives as long as its base is open."""

    def __init__(self, base: GGUFFile, repair: Repair) -> None:
        self._base, self._edits = base, repair.tensors
        self.original: GGUFFile = base.original if isinstance(base, PatchedFile) else base
        self._changed: frozenset[str] = base._changed if isinstance(base, PatchedFile) else frozenset()
        self._changed |= repair.tensors.keys()
        self.path, self.shards = base.path, base.shards
        self.version, self.alignment = base.version, base.alignment
        self._typed = _changed(base.typed_metadata(), repair)
        self.metadata = MappingProxyType({key: _value(value) for key, value in self._typed.items()})
        self.tensors = base.tensors
        missing = [name for name in repair.tensors if name not in base.tensors]
        assert not missing, f"repairs tensors that are not there: {missing}"

    def typed_metadata(self) -> dict[str, TypedValue]:
        return dict(self._typed)

    def data(self, name: str) -> Bytes:
        """The bytes of a tensor; those of a repaired one are made at each call."""
        data = self._base.data(name)
        edit = self._edits.get(name)
        return data if edit is None else edit(data, self._info(name)).reshape(data.shape)

    def range(self, name: str) -> FileRange:
        assert name not in self._changed, f"{name} lies nowhere: it is made"
        return self.original.range(name)

    def sources(self) -> dict[str, TensorData]:
        """All tensors, as write_gguf writes them: those that are repaired are made, of others the bytes are copied."""
        made = {name: partial(self.data, name) for name in self._changed}
        return {
            name: TensorData(info.type, info.shape, made.get(name) or self.range(name))
            for name, info in self.tensors.items()
        }

    def release(self, name: str, start: int, stop: int) -> None:
        self._base.release(name, start, stop)

    def identity(self) -> tuple[FileIdentity, ...]:
        raise AssertionError("a view is no file: nothing may be kept for it")

    def close(self) -> None:
        """The base is closed by whoever opened it."""


def _changed(metadata: dict[str, TypedValue], repair: Repair) -> dict[str, TypedValue]:
    for key, value in repair.metadata.items():
        if value is None:
            metadata.pop(key, None)
        else:
            metadata[key] = value
    return metadata


def _value(value: TypedValue) -> Any:
    """As a reader would give it."""
    if not isinstance(value.value, np.ndarray):
        return value.value
    frozen = value.value.view()
    frozen.setflags(write=False)
    return frozen
