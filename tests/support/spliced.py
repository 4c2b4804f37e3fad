"""Small Step models for the tests of join, split and graft, with their tensors in the orders of several programs."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stepahead.gguf import GGUFFile, TensorData, write_gguf, write_split_gguf
from support.random_step35 import Shape, metadata, model_tensors

SMALL = Shape(
    hidden=32, head_dim=16, num_trunk=3, heads_full=2, heads_sliding=4, num_kv_heads=2, width=32, num_experts=2,
    top_k=1, expert_width=32, shared_width=32, vocab=288,
)  # fmt: skip
ORDERS: dict[str, Callable[[str], Any]] = {
    "embeddings first": lambda name: 0,
    "factors last": lambda name: name.startswith("rope"),
    "output last": lambda name: not name.startswith("blk."),
    "heads first": lambda name: not is_head(name),
}
"""Sorting keys; of all orders but the last one, a file that was split is joined again byte for byte."""


def block(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("blk.") else -1


def is_head(name: str, num_trunk: int = SMALL.num_trunk) -> bool:
    return block(name) >= num_trunk


def parts_of(shape: Shape, part: str = "full", order: str = "embeddings first") -> dict[str, TensorData]:
    """full, trunk, or heads with what belongs to no block."""
    wanted = {
        "full": lambda name: True,
        "trunk": lambda name: block(name) < shape.num_trunk,
        "heads": lambda name: block(name) == -1 or block(name) >= shape.num_trunk,
    }[part]
    tensors = {name: data for name, data in model_tensors(shape) if wanted(name)}
    return dict(sorted(tensors.items(), key=lambda item: ORDERS[order](item[0])))


def write(
    path: Path,
    shape: Shape = SMALL,
    part: str = "full",
    *,
    order: str = "embeddings first",
    num_shards: int = 1,
    first_empty: bool = False,
    alignment: int = 32,
    pairs: Mapping[str, Any] | None = None,
    tensors: Mapping[str, TensorData | None] | None = None,
) -> Path:
    """A model's file, or the first of its shards. pairs, tensors: changes; None takes out."""
    changed = {**metadata(shape, has_heads=part != "trunk"), **(pairs or {})}
    changed = {key: value for key, value in changed.items() if value is not None}
    given = {**parts_of(shape, part, order), **(tensors or {})}
    kept = {name: data for name, data in given.items() if data is not None}
    if num_shards + first_empty == 1:
        write_gguf(path, changed, kept, alignment=alignment)
        return path
    prefix = path.with_name(path.name.removesuffix(".gguf"))
    num_shards += first_empty
    return write_split_gguf(prefix, changed, kept, num_shards=num_shards, first_empty=first_empty, alignment=alignment)[
        0
    ]


def with_expert_heads(shape: Shape = SMALL) -> dict[str, TensorData | None]:
    """Changes that give the heads the experts of the trunk's last block."""
    own = parts_of(shape)
    last = f"blk.{shape.num_trunk - 1}."
    experts = [name for name in own if name.startswith(last) and ("_exps" in name or "_shexp" in name)]
    experts += [f"{last}ffn_gate_inp.weight", f"{last}exp_probs_b.bias"]
    changes: dict[str, TensorData | None] = {}
    for head in range(shape.num_trunk, shape.num_blocks):
        changes |= {f"blk.{head}.ffn_{name}.weight": None for name in ("gate", "up", "down")}
        changes |= {name.replace(last, f"blk.{head}."): own[name] for name in experts}
    return changes


def content(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata with types, without what belongs to the files at hand; tensors with types, shapes and bytes."""
    with GGUFFile.open(path) as file:
        pairs = {
            key: (pair.type, list(pair.value) if pair.is_array else pair.value)
            for key, pair in file.typed_metadata().items()
            if not key.startswith("split.") and key != "stepahead.padding"
        }
        tensors = {name: (t.type, t.shape, file.data(name).tobytes()) for name, t in file.tensors.items()}
    return pairs, tensors


def heads_of(shape: Shape, num_heads: int) -> Shape:
    return replace(shape, num_heads_mtp=num_heads)
