"""Rows of a model's matrices in a smaller type, for drafts alone: nothing that is said depends on them.

Making them takes seconds for a large model, so that they are kept in a file of their own, as repacked weights are.
Must not know: models, which rows are wanted, or why.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stepahead.backends.base import PANEL_ROWS, PLAIN, Backend, Ints
from stepahead.errors import ConfigError
from stepahead.gguf import GGUFFile, QuantType, TensorInfo, dequantize
from stepahead.gguf.block_quants import Bytes
from stepahead.gguf.quantize import quantize
from stepahead.repack.cache_file import Entry, Index, UnusableError
from stepahead.repack.repacked import Fill, Kind, OnRepack, make_in_memory, make_or_map

QUICK_ELEMENTS = 32 << 20
"""As many are requantised at each start, in a third of a second: no file is worth it."""

CHUNK_ELEMENTS = 1 << 22
"""Requantised at once: bounds the numbers in memory, of four bytes each, and what numpy needs beside them."""


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """What is to be made of one tensor."""

    tensor: str
    type: QuantType  # the tensor's own: its rows are taken as they are
    layout: str = PLAIN
    rows: Ints | None = None  # None: all

    def info(self, file: GGUFFile) -> TensorInfo:
        """As if it were a tensor of the file, under a name that tells these rows from others."""
        found = file.tensors[self.tensor]
        name, shape = self.tensor, found.shape
        if self.rows is not None:
            digest = hashlib.sha256(np.ascontiguousarray(self.rows, "<i4").tobytes()).hexdigest()
            name, shape = f"{name}@{digest[:16]}", (len(self.rows), shape[-1])
        return TensorInfo(name, shape, self.type, 0, self.type.nbytes(shape), 0)


def requantise(
    file: GGUFFile, recipes: Sequence[Recipe], backend: Backend, choice: str | None, kind: Kind, on_write: OnRepack
) -> list[Bytes]:
    """The bytes of each recipe, row_bytes in the last axis.

    choice: where a file may be kept, "auto" or a folder; None: make them in memory, however long it takes.
    Raises OSError and UnusableError: it cannot be done.
    """
    infos = [recipe.info(file) for recipe in recipes]
    index = Index.plan(file.identity(), ((info, recipe.layout) for info, recipe in zip(infos, recipes, strict=True)))
    fill = _filler(file, {info.name: recipe for info, recipe in zip(infos, recipes, strict=True)}, backend)
    if choice is None or is_made_in_memory(file, recipes, choice):
        data = make_in_memory(index, fill)
    else:
        data, _ = make_or_map(file, index, fill, choice, kind, on_write)
    return [data[info.name].reshape(-1, info.row_bytes) for info in infos]


def is_made_in_memory(file: GGUFFile, recipes: Sequence[Recipe], choice: str | None) -> bool:
    """Whether `requantise` keeps no file of them."""
    return choice is None or num_requantised(file, recipes) <= QUICK_ELEMENTS


def made_nbytes(file: GGUFFile, recipes: Sequence[Recipe]) -> int:
    """What `requantise` makes, padding included."""
    return Index.plan((), ((recipe.info(file), recipe.layout) for recipe in recipes)).nbytes


def num_requantised(file: GGUFFile, recipes: Sequence[Recipe]) -> int:
    """Numbers that change their type: what takes the time."""
    return sum(
        info.nbytes // info.type.block_bytes * info.type.block_size
        for info, recipe in ((recipe.info(file), recipe) for recipe in recipes)
        if recipe.type is not file.tensors[recipe.tensor].type
    )


def _filler(file: GGUFFile, recipes: dict[str, Recipe], backend: Backend) -> Fill:
    def fill(entry: Entry, first: int, last: int, out: Bytes) -> None:
        width = entry.shape[-1]
        step = max(CHUNK_ELEMENTS // width // PANEL_ROWS, 1) * PANEL_ROWS
        into = out.reshape(last - first, -1)
        for start in range(first, last, step):
            stop = min(start + step, last)
            _make(file, recipes[entry.name], backend, start, stop, into[start - first : stop - first].reshape(-1))

    return fill


def _make(file: GGUFFile, recipe: Recipe, backend: Backend, start: int, stop: int, out: Bytes) -> None:
    info = file.tensors[recipe.tensor]
    rows = file.data(recipe.tensor).reshape(-1, info.row_bytes)
    made = rows[start:stop] if recipe.rows is None else rows[recipe.rows[start:stop]]
    if recipe.type is not info.type:
        try:
            made = quantize(dequantize(made, info.type), recipe.type)
        except ConfigError as error:  # a number that is none, or too large
            raise UnusableError(f"tensor {recipe.tensor}: {error}") from None
    if recipe.layout == PLAIN:
        out[:] = made.reshape(-1)
    else:
        backend.repack(made, recipe.type, (stop - start, info.shape[-1]), recipe.layout, out)
    if recipe.rows is None:
        file.release(recipe.tensor, start * info.row_bytes, stop * info.row_bytes)
