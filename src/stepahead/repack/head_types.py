"""The MTP blocks' own matrices in a smaller type: a draft pass reads less, and what it says is only a guess.

Owns which matrices these are. A tensor that is small already, or whose rows are no whole blocks, stays as it is.
Must not know: how it is done, what the blocks compute.
"""

import re

from stepahead.backends.base import PLAIN, Backend
from stepahead.gguf import GGUFFile, QuantType, TensorInfo
from stepahead.repack.repacked import Kind, OnRepack
from stepahead.repack.requantised import Recipe, requantise
from stepahead.repack.source import Matrices

KIND = Kind("weights of heads", ".heads")

EH_PROJ = "nextn.eh_proj"
"""Joins embedding and hidden row, whose sizes differ twentyfold; it is small, and never gets less than Q8_0."""

_LARGE = re.compile(r"blk\.\d+\.(attn_(q|k|v|qkv|output)|ffn_(gate|up|down)(_exps|_shexp)?|nextn\.eh_proj)\.weight")


def head_matrices(
    file: GGUFFile, type: QuantType, backend: Backend, choice: str | None, on_write: OnRepack
) -> Matrices:
    """In `type`, those of the heads in `file` that gain by it; choice None: make no file. Raises OSError and
    UnusableError: it cannot be done."""
    recipes = head_recipes(file, type, backend)
    made = requantise(file, recipes, backend, choice, KIND, on_write)
    return {recipe.tensor: (data, recipe.layout, recipe.type) for recipe, data in zip(recipes, made, strict=True)}


def head_recipes(file: GGUFFile, type: QuantType, backend: Backend) -> list[Recipe]:
    """What head_matrices makes."""
    return [recipe for info in file.tensors.values() if (recipe := _recipe(file, info, type, backend)) is not None]


def _recipe(file: GGUFFile, info: TensorInfo, type: QuantType, backend: Backend) -> Recipe | None:
    if not _LARGE.fullmatch(info.name) or len(info.shape) < 2:
        return None
    block = ".".join(info.name.split(".")[:2])
    if f"{block}.{EH_PROJ}.weight" not in file.tensors:
        return None  # the trunk's
    wanted = QuantType.Q8_0 if EH_PROJ in info.name else type
    width = info.shape[-1]
    if width % wanted.block_size or wanted.row_bytes(width) >= info.row_bytes:
        return None
    # A fused matrix is cut into several, at rows that only its model knows.
    layout = PLAIN if "attn_qkv" in info.name else backend.preferred_layout(wanted, info.shape)
    return Recipe(info.name, wanted, layout)
