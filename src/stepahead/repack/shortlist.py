"""Gives a loaded model its shortlist of draft ids: how many, and their rows in a small type.

Must not know: how ids are found to be frequent, how a draft pass uses the shortlist.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence

import numpy as np

from stepahead.backends.base import PANEL_ROWS, Backend, Ints
from stepahead.gguf import GGUFFile, QuantType
from stepahead.models.draft_vocab import DraftVocab, best_size
from stepahead.models.model import Model
from stepahead.models.short_output import ShortOutput
from stepahead.repack.cache_file import UnusableError
from stepahead.repack.folders import NEVER
from stepahead.repack.repacked import Kind, OnRepack
from stepahead.repack.requantised import QUICK_ELEMENTS, Recipe, num_requantised, requantise

log = logging.getLogger("stepahead")

AUTO, FULL = "auto", "full"
KIND = Kind("rows for drafts", ".shortlist")
TYPES = (QuantType.Q4_K, QuantType.Q4_0)
"""Of the rows, the first whose blocks fit into one."""

WORTH_IT = 1.25
"""A row this many times as large as the small type's is requantised: Q6_K, Q8_0 and floats are, Q5_K is not."""

Source = tuple[GGUFFile, str]


def shorten_drafts(
    model: Model,
    backend: Backend,
    frequent_ids: Callable[[int], Sequence[int]],
    size: str | int,
    choice: str,
    on_write: OnRepack,
) -> None:
    """Set model.draft_vocab. size: "auto", "full" or how many frequent ids; choice: where a file may be kept.

    frequent_ids(count) gives that many of them. What cannot be requantised is used as it is in the file.
    """
    count = num_frequent(model, size)
    if count is None:
        return
    ids = np.sort(np.asarray(frequent_ids(count), np.int32))
    sources, output_of = distinct(model.draft_outputs)
    model.draft_vocab = DraftVocab(backend, ids, _outputs(sources, ids, backend, choice, on_write), output_of)


def num_frequent(model: Model, size: str | int) -> int | None:
    """How many frequent ids the shortlist has; None: there is none."""
    if model.draft is None or size == FULL:
        return None
    count = _auto_size(model) if size == AUTO else int(size)
    if count is None or count >= model.vocab_size:
        return None
    return min(count + -count % PANEL_ROWS, model.vocab_size)


def _auto_size(model: Model) -> int | None:
    """The size for the head whose whole matrix is the cheapest: what is right for it is right for the others."""
    infos = [file.tensors[name] for file, name in model.draft_outputs]
    info = min(infos, key=lambda found: found.nbytes)
    short = _small_type(info.type, info.shape[-1]).row_bytes(info.shape[-1])
    return best_size(model.vocab_size, info.row_bytes, short, model.step_nbytes)


def distinct(sources: Sequence[Source]) -> tuple[list[Source], list[int]]:
    """The matrices that differ, and which of them each head has. Files often repeat one under several names."""
    keys = [_fingerprint(file, name) for file, name in sources]
    first = dict(reversed(list(zip(keys, sources, strict=True))))
    order = list(dict.fromkeys(keys))
    return [first[key] for key in order], [order.index(key) for key in keys]


def _fingerprint(file: GGUFFile, name: str) -> tuple[str, str]:
    """Of some rows. Matrices that were taken for the same would make poorer drafts, and nothing worse."""
    info = file.tensors[name]
    rows = file.data(name).reshape(-1, info.row_bytes)
    some = rows[np.linspace(0, len(rows) - 1, 64).astype(np.int64)]
    return info.type.name, hashlib.sha256(some.tobytes()).hexdigest()


def _small_type(type: QuantType, width: int) -> QuantType:
    """The type that rows of `width` get; their own where that is small enough."""
    for small in TYPES:
        if width % small.block_size == 0:
            return small if type.row_bytes(width) > WORTH_IT * small.row_bytes(width) else type
    return type


def _outputs(
    sources: Sequence[Source], ids: Ints, backend: Backend, choice: str, on_write: OnRepack
) -> list[ShortOutput]:
    """Of each matrix; those of one file are made together, and kept together."""
    made: dict[Source, ShortOutput] = {}
    for file in dict.fromkeys(file for file, _ in sources):
        names = [name for other, name in sources if other is file]
        recipes = shortlist_recipes(file, names, ids, backend, choice)
        try:
            rows = requantise(file, recipes, backend, choice, KIND, on_write)
        except (OSError, UnusableError) as error:
            log.info("%s: rows of the draft vocabulary are used as they are: %s", file.path, error)
            recipes = [_recipe(file, name, ids, backend, is_small=False) for name in names]
            rows = requantise(file, recipes, backend, None, KIND, on_write)
        for recipe, data in zip(recipes, rows, strict=True):
            info = file.tensors[recipe.tensor]
            frequent = backend.load_matrix(data, recipe.type, (len(ids), info.shape[-1]), recipe.layout)
            whole = file.data(recipe.tensor).reshape(-1, info.row_bytes)
            made[file, recipe.tensor] = ShortOutput(frequent, whole, info.type)
    return [made[source] for source in sources]


def shortlist_recipes(file: GGUFFile, names: Sequence[str], ids: Ints, backend: Backend, choice: str) -> list[Recipe]:
    """Of the rows `ids` of these matrices."""
    recipes = [_recipe(file, name, ids, backend, is_small=True) for name in names]
    if choice == NEVER and num_requantised(file, recipes) > QUICK_ELEMENTS:
        return [_recipe(file, name, ids, backend, is_small=False) for name in names]
    return recipes


def _recipe(file: GGUFFile, name: str, ids: Ints, backend: Backend, is_small: bool) -> Recipe:
    info = file.tensors[name]
    width = info.shape[-1]
    type = _small_type(info.type, width) if is_small else info.type
    return Recipe(name, type, backend.preferred_layout(type, (len(ids), width)), ids)
