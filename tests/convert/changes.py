"""Checkpoints and configs made from others: renamed, cut up, with something left out or put in."""

import numpy as np

from support.hub_checkpoint import DTYPES, Tensors


def renamed(tensors: Tensors, *pairs: tuple[str, str]) -> Tensors:
    found = tensors
    for old, new in pairs:
        found = {name.replace(old, new, 1): value for name, value in found.items()}
    return found


def one_by_one(tensors: Tensors, infix: str) -> Tensors:
    """Stacks of experts cut up, and in no good order."""
    found: Tensors = {}
    for name, (dtype, array) in tensors.items():
        if ".moe." in name and array.ndim == 3:
            for expert in reversed(range(len(array))):
                found[name.replace(".moe.", f".moe.{infix}{expert}.")] = (dtype, array[expert])
        else:
            found[name] = (dtype, array)
    return found


def without(config: dict, *names: str) -> dict:
    return {name: value for name, value in config.items() if name not in names}


def changed(tensors: Tensors, name: str, dtype: str, shape: tuple[int, ...]) -> Tensors:
    return {**tensors, name: (dtype, np.zeros(shape, DTYPES[dtype]))}
