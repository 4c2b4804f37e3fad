"""What is in a model file."""

from pathlib import Path

import numpy as np

from stepahead.gguf import GGUFFile


def tensors_of(path: Path) -> dict[str, np.ndarray]:
    with GGUFFile.open(path) as file:
        return {name: file.array(name) for name in file.tensors}


def same_file(left: Path, right: Path) -> bool:
    with GGUFFile.open(left) as one, GGUFFile.open(right) as other:
        keys = one.metadata.keys() == other.metadata.keys()
        values = all(np.array_equal(one.metadata[key], other.metadata[key]) for key in one.metadata)
        names = list(one.tensors) == list(other.tensors)
        return keys and values and names and all(np.array_equal(one.data(t), other.data(t)) for t in one.tensors)
