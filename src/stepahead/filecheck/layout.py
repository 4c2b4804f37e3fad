"""Which blocks of a file are trunk and which are heads, by its tensors, and what its metadata says of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stepahead.gguf import GGUFFile, TypedValue
from stepahead.gguf.block_name import block_number

ARCH = "step35"
MARK = ".nextn."  # in the names of tensors that only heads have
LISTS = {  # per-layer lists, and the kinds of numpy types that they may have
    "attention.head_count": "iu",
    "attention.head_count_kv": "iu",
    "attention.sliding_window_pattern": "b",
    "swiglu_clamp_exp": "f",
    "swiglu_clamp_shexp": "f",
}


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Block numbers are the file's own: the heads of a published model are blocks 45 to 47."""

    file: GGUFFile
    trunk: tuple[int, ...]
    heads: tuple[int, ...]
    declared_blocks: int
    declared_heads: int
    head_dim: int

    @classmethod
    def of(cls, file: GGUFFile) -> "Layout":
        """Raises ModelFormatError for metadata of wrong types."""
        heads = {block_number(name) for name in file.tensors if MARK in name} - {-1}
        blocks = {block_number(name) for name in file.tensors} - {-1}
        hidden = file.get_int(f"{ARCH}.embedding_length", 0)
        counts = np.atleast_1d(file.metadata.get(f"{ARCH}.attention.head_count", 1))
        narrow = hidden // max(int(counts[0]), 1) if counts.size and counts.dtype.kind in "iu" else 0
        return cls(
            file=file,
            trunk=tuple(sorted(blocks - heads)),
            heads=tuple(sorted(heads)),
            declared_blocks=file.get_int(f"{ARCH}.block_count", 0),
            declared_heads=file.get_int(f"{ARCH}.nextn_predict_layers", 0),
            head_dim=file.get_int(f"{ARCH}.attention.key_length", narrow),
        )

    @property
    def num_trunk(self) -> int:
        """Of the model, though they may lie in another file."""
        if self.trunk:
            return self.trunk[-1] + 1
        return self.heads[0] if self.heads else self.declared_blocks - self.declared_heads

    @property
    def num_blocks(self) -> int:
        return self.num_trunk + len(self.heads)

    @property
    def is_companion(self) -> bool:
        """Heads without their trunk."""
        return bool(self.heads) and not self.trunk

    @property
    def is_contiguous(self) -> bool:
        """Blocks without gaps, heads last: else nobody can say which is which."""
        first = self.heads[0] if self.is_companion else 0
        return (*self.trunk, *self.heads) == tuple(range(first, first + len(self.trunk) + len(self.heads)))

    def number(self, block: int) -> int:
        """Of a head, from 0."""
        return block - self.num_trunk

    def per_layer(self, key: str) -> Any:
        """An array of the metadata, None where there is none or one value stands for all layers."""
        value = self.file.metadata.get(f"{ARCH}.{key}")
        return value if isinstance(value, np.ndarray) and value.dtype.kind in LISTS[key] else None

    def like(self, key: str, values: Any) -> TypedValue:
        """New values of a per-layer list, in its own type."""
        old = self.file.typed_metadata()[f"{ARCH}.{key}"]
        return TypedValue(old.type, np.asarray(values, old.value.dtype))

    def query_heads(self, block: int) -> int | None:
        """By the shape of the query matrix."""
        info = self.file.tensors.get(f"blk.{block}.attn_q.weight")
        if info is not None:
            return _quotient(info.shape[0], self.head_dim)
        gate = self.file.tensors.get(f"blk.{block}.attn_gate.weight")
        return gate.shape[0] if gate is not None and len(gate.shape) == 2 else None

    def kv_heads(self, block: int) -> int | None:
        info = self.file.tensors.get(f"blk.{block}.attn_k.weight")
        if info is not None:
            return _quotient(info.shape[0], self.head_dim)
        fused, queries = self.file.tensors.get(f"blk.{block}.attn_qkv.weight"), self.query_heads(block)
        if fused is None or queries is None or not self.head_dim:
            return None
        return _quotient(fused.shape[0] - queries * self.head_dim, 2 * self.head_dim)

    def names(self, blocks: Sequence[int]) -> Iterator[str]:
        """Tensors of these blocks, in file order."""
        return (name for name in self.file.tensors if block_number(name) in blocks)


def _quotient(size: int, part: int) -> int | None:
    return size // part if part > 0 and size >= part and size % part == 0 else None
