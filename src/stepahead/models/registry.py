"""Which class runs which GGUF architecture. Families are imported late, when a file asks for one."""

import importlib
from typing import cast

from stepahead.backends.base import Backend
from stepahead.errors import UnsupportedModelError
from stepahead.gguf import GGUFFile
from stepahead.models.model import Model
from stepahead.models.weights import FILES, MatrixSource

# --8<-- [start:families]
FAMILIES = {"step35": "stepahead.models.step35:Step35"}
# --8<-- [end:families]


def load_model(file: GGUFFile, backend: Backend, heads: GGUFFile | None, source: MatrixSource = FILES) -> Model:
    """The model in `file`, with the MTP heads of `heads` (the same file, a companion, or None for no heads).

    source: where the bytes of its matrices are taken from, and in which layout.
    Raises UnsupportedModelError for an architecture that has no family here; see the family for the rest.
    """
    arch = file.get_str("general.architecture")
    if arch not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise UnsupportedModelError(f"{file.path}: architecture {arch!r} is not supported; this version runs {known}")
    module, name = FAMILIES[arch].split(":")
    return cast(Model, getattr(importlib.import_module(module), name)(file, backend, heads, source))
