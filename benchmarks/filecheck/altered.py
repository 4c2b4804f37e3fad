"""A model file as it would be if someone had written it otherwise; nothing is written."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from stepahead.filecheck.patched_file import PatchedFile
from stepahead.filecheck.repair import Edit, Repair
from stepahead.gguf import GGUFFile, TypedValue


class Altered(PatchedFile):
    """pairs: None takes a key out.      without: beginnings of names of tensors that are left out."""

    def __init__(
        self,
        base: GGUFFile,
        edits: Mapping[str, Edit] | None = None,
        pairs: Mapping[str, TypedValue | None] | None = None,
        without: Sequence[str] = (),
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        super().__init__(base, Repair("", pairs or {}, edits or {}))
        kept = {name: info for name, info in base.tensors.items() if not name.startswith(tuple(without))}
        kept |= {name: replace(kept[name], shape=shape) for name, shape in (shapes or {}).items()}
        self.tensors = MappingProxyType(kept)


def have_equal_pairs(one: GGUFFile, other: GGUFFile) -> bool:
    """Of metadata, with types."""
    return _texts(one) == _texts(other)


def differing(one: GGUFFile, other: GGUFFile, rounding: float = 0.0) -> list[str]:
    """Tensors that only one of the files has, or whose numbers differ by more than F32 and `rounding` explain."""
    names = dict.fromkeys([*one.tensors, *other.tensors])
    return [name for name in names if not _is_close(one, other, name, rounding)]


def _is_close(one: GGUFFile, other: GGUFFile, name: str, rounding: float) -> bool:
    infos = one.tensors.get(name), other.tensors.get(name)
    if infos[0] is None or infos[1] is None or infos[0].shape != infos[1].shape:
        return False
    first, second = one.data(name), other.data(name)
    if first.shape == second.shape and bool((first == second).all()):
        return True
    return np.allclose(one.array(name), other.array(name), rounding, 1e-6)


def _texts(file: GGUFFile) -> dict[str, str]:
    return {key: repr(pair) for key, pair in file.typed_metadata().items()}
