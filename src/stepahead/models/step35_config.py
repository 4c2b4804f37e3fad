"""Step-3.5 / Step-3.7 (text): what the metadata of a GGUF file says, checked and turned into layer specs.

Everything comes from the file's per-layer arrays; no constant of the published models stands here. What the keys
mean where llama.cpp and the published files leave room is decided as llama.cpp b11549 reads them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from stepahead.backends.base import Rope
from stepahead.errors import ModelFormatError, UnsupportedModelError
from stepahead.gguf import GGUFFile
from stepahead.gguf.block_name import check_blocks
from stepahead.models.layers import Router

ARCH = "step35"
MAX_BLOCKS = 4096
MAX_RECURRENT_DEPTH = 8
SIGMOID_GATING = 2  # expert_gating_func; 1 would be softmax
STEP5_MARKS = ("sparse_indexer", "ssmax")


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """The per-layer arrays at one index."""

    num_heads: int
    num_kv_heads: int
    is_sliding: bool
    clamp: float
    expert_clamp: float


@dataclass(frozen=True, slots=True, eq=False)
class Step35Config:
    """The metadata of one file. `layers` has an entry for every declared block, heads last."""

    num_trunk_layers: int
    num_declared_heads: int
    hidden_size: int
    context_length: int
    head_dim: int
    window: int
    eps: float
    full_rope: Rope
    sliding_rope: Rope
    router: Router | None
    layers: tuple[LayerFacts, ...]

    @classmethod
    def from_file(cls, file: GGUFFile) -> "Step35Config":
        """Raises ModelFormatError for missing or impossible values, UnsupportedModelError for Step-5 files."""
        _refuse_step5(file)
        reader = _Reader(file)
        num_blocks = reader.positive("block_count", limit=MAX_BLOCKS)
        num_heads = reader.count("nextn_predict_layers", default=0)
        if num_heads >= num_blocks:
            raise ModelFormatError(
                f"{file.path}: nextn_predict_layers={num_heads} leaves no trunk of block_count={num_blocks}"
            )
        check_blocks(file.path, file.tensors, num_blocks)
        head_dim = reader.head_dim()
        full_dims, sliding_dims = reader.rotary_dims(head_dim)
        sliding_theta = reader.positive_float("rope.freq_base_swa", default=10000.0)
        return cls(
            num_trunk_layers=num_blocks - num_heads,
            num_declared_heads=num_heads,
            hidden_size=reader.positive("embedding_length"),
            context_length=reader.positive("context_length"),
            head_dim=head_dim,
            window=reader.positive("attention.sliding_window"),
            eps=reader.positive_float("attention.layer_norm_rms_epsilon"),
            full_rope=Rope(full_dims, reader.positive_float("rope.freq_base"), _rope_factors(file, full_dims)),
            sliding_rope=Rope(sliding_dims, sliding_theta),
            router=reader.router(),
            layers=reader.layers(num_blocks),
        )


class _Reader:
    """Reads `step35.*` keys and refuses what cannot be."""

    def __init__(self, file: GGUFFile) -> None:
        self.file = file

    def count(self, key: str, default: int | None = None, limit: int = 2**31 - 1) -> int:
        name = f"{ARCH}.{key}"
        value = self.file.get_int(name) if default is None else self.file.get_int(name, default)
        if not 0 <= value <= limit:
            raise ModelFormatError(f"{self.file.path}: {name}={value} is not from 0 to {limit}")
        return value

    def positive(self, key: str, default: int | None = None, limit: int = 2**31 - 1) -> int:
        value = self.count(key, default, limit)
        if value == 0:
            raise ModelFormatError(f"{self.file.path}: {ARCH}.{key}=0, expected at least 1")
        return value

    def positive_float(self, key: str, default: float | None = None) -> float:
        name = f"{ARCH}.{key}"
        value = self.file.get_float(name) if default is None else self.file.get_float(name, default)
        if not (np.isfinite(value) and value > 0):
            raise ModelFormatError(f"{self.file.path}: {name}={value} is not a positive number")
        return value

    def head_dim(self) -> int:
        if f"{ARCH}.attention.key_length" in self.file.metadata:
            head_dim = self.positive("attention.key_length")
        else:
            head_dim = self.positive("embedding_length") // int(self.per_layer("attention.head_count", 1, int)[0])
        value_length = self.positive("attention.value_length", default=head_dim)
        if value_length != head_dim:
            raise UnsupportedModelError(
                f"{self.file.path}: value_length={value_length} differs from key_length={head_dim}; "
                "this architecture has them equal"
            )
        if head_dim < 4 or head_dim % 4:
            raise ModelFormatError(f"{self.file.path}: heads of {head_dim} dims, expected a multiple of 4")
        return head_dim

    def rotary_dims(self, head_dim: int) -> tuple[int, int]:
        """(full, sliding). Published files have neither key: half of a head, and all of it. A lone dimension_count
        is the head's size, which llama.cpp halves for full layers; newer converters write both, literally."""
        both = ("rope.dimension_count", "rope.dimension_count_swa")
        if all(f"{ARCH}.{key}" in self.file.metadata for key in both):
            full, sliding = (self.positive(key, limit=head_dim) for key in both)
        else:
            full, sliding = head_dim // 2, head_dim
            alone = self.positive("rope.dimension_count", default=head_dim)
            if alone not in (full, sliding):
                raise UnsupportedModelError(
                    f"{self.file.path}: rope.dimension_count={alone} without dimension_count_swa is ambiguous; "
                    f"expected {sliding} or both keys"
                )
        if full % 2 or sliding % 2:
            raise ModelFormatError(f"{self.file.path}: rotary sizes {full} and {sliding} must be even")
        return full, sliding

    def router(self) -> Router | None:
        num_experts = self.count("expert_count", default=0)
        if num_experts == 0:
            return None
        gating = self.count("expert_gating_func", default=SIGMOID_GATING)
        if gating not in (0, SIGMOID_GATING):
            raise UnsupportedModelError(
                f"{self.file.path}: expert_gating_func={gating}; this architecture routes by sigmoid (2)"
            )
        top_k = self.positive("expert_used_count")
        if top_k > num_experts:
            raise ModelFormatError(f"{self.file.path}: expert_used_count={top_k} of expert_count={num_experts}")
        return Router(
            num_experts=num_experts,
            top_k=top_k,
            normalize=self.file.get_bool(f"{ARCH}.expert_weights_norm", False),
            scale=self.file.get_float(f"{ARCH}.expert_weights_scale", 0.0),
        )

    def layers(self, num_blocks: int) -> tuple[LayerFacts, ...]:
        num_heads = self.per_layer("attention.head_count", num_blocks, int)
        num_kv_heads = self.per_layer("attention.head_count_kv", num_blocks, int)
        is_sliding = self.per_layer("attention.sliding_window_pattern", num_blocks, bool)
        clamps = self.per_layer("swiglu_clamp_shexp", num_blocks, float, default=0.0)
        expert_clamps = self.per_layer("swiglu_clamp_exp", num_blocks, float, default=0.0)
        for index, (heads, kv_heads) in enumerate(zip(num_heads, num_kv_heads, strict=True)):
            if not (0 < kv_heads <= heads <= 2**16 and heads % kv_heads == 0):
                raise ModelFormatError(
                    f"{self.file.path}: layer {index} has {heads} query heads over {kv_heads} KV heads"
                )
        facts = zip(num_heads, num_kv_heads, is_sliding, clamps, expert_clamps, strict=True)
        return tuple(LayerFacts(int(h), int(k), bool(s), float(c), float(e)) for h, k, s, c, e in facts)

    def per_layer(self, key: str, num_blocks: int, kind: type, default: Any = None) -> list[Any]:
        """An array of exactly num_blocks values, or one value for all layers."""
        name = f"{ARCH}.{key}"
        value = self.file.metadata.get(name, default)
        if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return [value] * num_blocks
        values = self.file.get_array(name, kind=kind)
        declared = self.file.get_int(f"{ARCH}.block_count")
        if len(values) != declared:
            raise ModelFormatError(f"{self.file.path}: {name} has {len(values)} values for {declared} blocks")
        if kind is float and not np.isfinite(values).all():
            raise ModelFormatError(f"{self.file.path}: {name} has values that are not finite")
        return list(values[:num_blocks])


def _rope_factors(file: GGUFFile, full_dims: int) -> Any:
    """The first full_dims / 2 entries of rope_freqs.weight, float32; None without that tensor. Taken as they are:
    early converters computed them with another rotary size, and those files are run as they were made."""
    if "rope_freqs.weight" not in file.tensors:
        return None
    shape = file.tensors["rope_freqs.weight"].shape
    if len(shape) != 1 or shape[0] < full_dims // 2:
        raise ModelFormatError(f"{file.path}: rope_freqs.weight has shape {list(shape)}, expected {full_dims // 2}")
    factors = file.array("rope_freqs.weight")[: full_dims // 2]
    if not (np.isfinite(factors).all() and (factors > 0).all()):
        raise ModelFormatError(f"{file.path}: rope_freqs.weight has values that are not positive numbers")
    return factors


def _refuse_step5(file: GGUFFile) -> None:
    for name in file.tensors:
        if any(mark in name for mark in STEP5_MARKS):
            raise UnsupportedModelError(
                f"{file.path}: tensor {name} belongs to Step-5, which has sparse attention; "
                "this version runs Step-3.5 and Step-3.7"
            )
