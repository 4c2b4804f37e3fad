"""The ways in which a converter may have got a head wrong that bytes do not show: each as the repair that undoes it.

Only what could be so is offered: 1 is not taken from a norm that would be left without it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from stepahead.filecheck.attention_checks import PATTERN
from stepahead.filecheck.layout import ARCH, Layout
from stepahead.filecheck.norm_values import NormValues
from stepahead.filecheck.repair import Repair, add, pair_by_halves, swap_halves
from stepahead.gguf.block_name import block_number

NORM_GROUPS = {
    "every norm": ("",),
    "enorm and hnorm": ("nextn.enorm", "nextn.hnorm"),
    "enorm": ("nextn.enorm",),
    "hnorm": ("nextn.hnorm",),
    "attn_norm and ffn_norm": ("attn_norm", "ffn_norm"),
    "the norms of queries and keys": ("attn_q_norm", "attn_k_norm"),
    "shared_head_norm": ("nextn.shared_head_norm",),
}
VARIANTS = ("rotary pairs by halves", "rotary pairs by halves in matrices and norms")
MOST_WITHOUT = 0.75  # the middle of a norm that may lack its 1 is below
LEAST_DOUBLED = 1.0  # the low end of one that may have it twice is above


@dataclass(frozen=True, slots=True, eq=False)
class Contract:
    """name completes "with …"."""

    kind: str  # of the finding
    name: str
    repair: Repair


def contracts(layout: Layout, block: int) -> list[Contract]:
    """All that a head may be tried with, one change each."""
    return [*_norms(layout, block), *_halves(layout, block), *_rope(layout, block), *_window(layout, block)]


def of_whole_file(layout: Layout) -> Contract | None:
    """What a trunk may be tried with: every norm, where all of them are of the size that they would have."""
    file = layout.file
    names = [name for name in file.tensors if name.endswith("norm.weight") and np.isfinite(file.array(name)).all()]
    values = {name: NormValues.of(file.array(name)) for name in names}
    trunk = [name for name in names if block_number(name) not in layout.heads]
    if not layout.trunk or not trunk:
        return None
    if all(values[name].low > LEAST_DOUBLED for name in trunk):
        edits = {name: add(-1.0) for name in names if values[name].low > LEAST_DOUBLED}
        return Contract("norm-offset", "1 taken from every norm", Repair("--fix takes it away", tensors=edits))
    if all(values[name].middle < MOST_WITHOUT for name in trunk):
        edits = {name: add(1.0) for name in names if values[name].middle < MOST_WITHOUT}
        return Contract("norm-offset", "1 added to every norm", Repair("--fix adds it", tensors=edits))
    return None


def with_halves(layout: Layout, block: int) -> list[Contract]:
    """Two changes at once, one of them the halves: with two faults, neither change alone shows anything."""
    others = [*_norms(layout, block), *_rope(layout, block)]
    return [_both(halves, other) for halves, other in product(_halves(layout, block), others)]


def _both(one: Contract, two: Contract) -> Contract:
    """Of different tensors."""
    repair = Repair(one.repair.text, tensors={**one.repair.tensors, **two.repair.tensors})
    return Contract(one.kind, f"{one.name} and {two.name}", repair)


def _norms(layout: Layout, block: int) -> Iterator[Contract]:
    file, prefix = layout.file, f"blk.{block}."
    names = [name for name in layout.names([block]) if name.endswith("norm.weight")]
    values = {name: NormValues.of(file.array(name)) for name in names}
    for group, parts in NORM_GROUPS.items():
        own = [name for name in names if name.startswith(tuple(f"{prefix}{part}" for part in parts))]
        if own and all(values[name].middle < MOST_WITHOUT for name in own):
            edits = {name: add(1.0) for name in own}
            yield Contract("norm-offset", f"1 added to {group}", Repair("--fix adds it", tensors=edits))
        if own and all(values[name].low > LEAST_DOUBLED for name in own):
            edits = {name: add(-1.0) for name in own}
            yield Contract("norm-offset", f"1 taken from {group}", Repair("--fix takes it away", tensors=edits))


def _halves(layout: Layout, block: int) -> Iterator[Contract]:
    name = f"blk.{block}.nextn.eh_proj.weight"
    if name in layout.file.tensors:
        repair = Repair("--fix swaps them", tensors={name: swap_halves})
        yield Contract("concat-order", "the halves of eh_proj swapped", repair)


def _rope(layout: Layout, block: int) -> Iterator[Contract]:
    """A converter that permutes the rows of queries and keys may or may not permute their norms."""
    prefix, head_dim, tensors = f"blk.{block}.", layout.head_dim, layout.file.tensors
    queries, keys = layout.query_heads(block), layout.kv_heads(block)
    if f"{prefix}attn_qkv.weight" in tensors and queries and keys:
        rows = {f"{prefix}attn_qkv.weight": pair_by_halves(head_dim, (queries + keys) * head_dim)}
    elif queries and keys and f"{prefix}attn_q.weight" in tensors:
        rows = {f"{prefix}attn_{part}.weight": pair_by_halves(head_dim) for part in "qk"}
    else:
        return
    norms = {f"{prefix}attn_{part}_norm.weight": pair_by_halves(head_dim) for part in "qk"}
    text = "--fix reorders the rows"
    yield Contract("rope-layout", VARIANTS[0], Repair(text, tensors=rows))
    if all(norm in tensors for norm in norms):
        yield Contract("rope-layout", VARIANTS[1], Repair(text, tensors=rows | norms))


def _window(layout: Layout, block: int) -> Iterator[Contract]:
    """Where the number of query heads does not tell; see attention_checks."""
    pattern, counts = layout.per_layer(PATTERN), layout.per_layer("attention.head_count")
    if pattern is None or counts is None:
        return
    full, sliding = (
        {int(counts[other]) for other in range(layout.num_trunk) if pattern[other] == kind} for kind in (False, True)
    )
    if full and sliding and not full & sliding:
        return
    flipped = np.array(pattern)
    flipped[block] = not pattern[block]
    kind = "sliding" if flipped[block] else "full"
    repair = Repair("--fix declares it", {f"{ARCH}.{PATTERN}": layout.like(PATTERN, flipped)})
    yield Contract("window", f"{kind} attention", repair)
