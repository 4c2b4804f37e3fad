"""Whether heads fit a trunk: the sizes that both files state, value by value.

What the loader refuses in the outcome (missing or misshapen tensors) it refuses itself.
"""

from dataclasses import fields
from typing import Any

from stepahead.errors import ConfigError
from stepahead.splice.likeness import EMBEDDINGS
from stepahead.splice.parts import FileParts

WAY_OUT = "give the heads of this model"


def demand_fitting(trunk: FileParts, heads: FileParts) -> None:
    """ConfigError names the first thing that differs, and both its values."""
    own, other = _facts(trunk), _facts(heads)
    for name, value in own.items():
        if other[name] is not None and value is not None and other[name] != value:
            raise ConfigError(
                f"{heads.file.path}: heads for {name} {other[name]}, but {trunk.file.path} has {value}; {WAY_OUT}"
            )
    _demand_equal_layers(trunk, heads)
    _demand_one_router(trunk, heads)


def _facts(parts: FileParts) -> dict[str, Any]:
    """In words for messages; None: this file does not say."""
    config = parts.config
    return {
        "layers of the trunk:": config.num_trunk_layers,
        "width": config.hidden_size,
        "a vocabulary of": _vocab_size(parts),
        "a head size of": config.head_dim,
        "a window of": config.window,
        "a norm epsilon of": config.eps,
        "rotary sizes (full, sliding)": (config.full_rope.num_rotated, config.sliding_rope.num_rotated),
        "rotary bases (full, sliding)": (config.full_rope.theta, config.sliding_rope.theta),
    }


def _vocab_size(parts: FileParts) -> int | None:
    names = [EMBEDDINGS, *(name for name in parts.heads if name.endswith(".nextn.shared_head_head.weight"))]
    return next((parts.file.tensors[name].shape[0] for name in names if name in parts.file.tensors), None)


def _demand_equal_layers(trunk: FileParts, heads: FileParts) -> None:
    """What both files say of the trunk's layers, except for clamps, which early files leave out."""
    for index in range(trunk.num_trunk_layers):
        own, other = trunk.config.layers[index], heads.config.layers[index]
        for name in ("num_heads", "num_kv_heads", "is_sliding"):
            if getattr(own, name) != getattr(other, name):
                raise ConfigError(
                    f"{heads.file.path}: heads for a trunk with {name} {getattr(other, name)} in layer {index}, but "
                    f"{trunk.file.path} has {getattr(own, name)} there; {WAY_OUT}"
                )


def _demand_one_router(trunk: FileParts, heads: FileParts) -> None:
    """A file has one set of routing rules, for the trunk and for heads with experts."""
    own, other = trunk.config.router, heads.config.router
    if own is None or other is None or not any(name.endswith(".ffn_gate_inp.weight") for name in heads.heads):
        return
    for field in fields(own):
        if getattr(own, field.name) != getattr(other, field.name):
            raise ConfigError(
                f"{heads.file.path}: heads with experts, for {field.name} {getattr(other, field.name)}, but "
                f"{trunk.file.path} has {getattr(own, field.name)}; {WAY_OUT}"
            )
