"""Per-layer lists against the shapes of the matrices, and the rotary factors of full layers."""

from collections.abc import Iterator

import numpy as np

from stepahead.filecheck.finding import Finding, heads_named
from stepahead.filecheck.layout import ARCH, Layout
from stepahead.filecheck.repair import Repair, replace_by
from stepahead.gguf.block_quants import Floats

COUNTS = {"attention.head_count": "query heads", "attention.head_count_kv": "key/value heads"}
PATTERN = "attention.sliding_window_pattern"
# What the rotary factors of the published models are made with; their files carry the factors alone.
SCALING, TRAINED_LENGTH, LOW, HIGH = 2.0, 131072.0, 1.0, 32.0
TOLERANCE = 1e-3  # of a factor; the two computations differ by up to 1.0


def check_attention(layout: Layout) -> Iterator[Finding]:
    """Wrong head counts, full instead of sliding heads, rotary factors of early converters."""
    if layout.is_contiguous:
        for key, what in COUNTS.items():
            yield from _head_counts(layout, key, what)
        yield from _windows(layout)
    yield from _rope_factors(layout)


def _head_counts(layout: Layout, key: str, what: str) -> Iterator[Finding]:
    values = layout.per_layer(key)
    if values is None or len(values) < layout.num_blocks:
        return
    found = layout.query_heads if key == "attention.head_count" else layout.kv_heads
    shapes = {block: found(block) for block in (*layout.trunk, *layout.heads)}
    wrong = {block: shape for block, shape in shapes.items() if shape is not None and shape != values[block]}
    if not wrong:
        return
    told = sorted({f"{values[block]} {what} where the matrices have {shape}" for block, shape in wrong.items()})
    fixed = values.copy()
    fixed[list(wrong)] = list(wrong.values())
    repair = Repair("--fix takes the matrices' count", {f"{ARCH}.{key}": layout.like(key, fixed)})
    yield Finding("head-count", "fault", f"{ARCH}.{key}", f"says {', '.join(told)} ({_blocks(wrong)})", repair)


def _windows(layout: Layout) -> Iterator[Finding]:
    """Sliding and full layers of the trunk have different numbers of query heads: a head's own number tells which it
    was trained as. Where they have the same, nothing is said."""
    pattern, counts = layout.per_layer(PATTERN), layout.per_layer("attention.head_count")
    if pattern is None or counts is None or len(pattern) < layout.num_blocks or len(counts) < layout.num_blocks:
        return
    trunk = range(layout.num_trunk)
    by_kind = {kind: {int(counts[block]) for block in trunk if pattern[block] == kind} for kind in (False, True)}
    if not (by_kind[False] and by_kind[True]) or by_kind[False] & by_kind[True]:
        return
    own = {block: layout.query_heads(block) for block in layout.heads}
    wrong = [block for block, count in own.items() if count in by_kind[not pattern[block]]]
    if not wrong:
        return
    fixed = pattern.copy()
    fixed[wrong] = ~fixed[wrong]
    kinds = ("sliding", "full") if fixed[wrong[0]] else ("full", "sliding")
    what = f"declared with {kinds[1]} attention, but their {own[wrong[0]]} query heads are those of {kinds[0]} layers"
    repair = Repair(f"--fix declares them {kinds[0]}", {f"{ARCH}.{PATTERN}": layout.like(PATTERN, fixed)})
    yield Finding("window", "fault", heads_named([layout.number(block) for block in wrong]), what, repair)


def _rope_factors(layout: Layout) -> Iterator[Finding]:
    """Early converters computed the factors for rotary embedding over a whole head; full layers turn half of it."""
    file, name = layout.file, "rope_freqs.weight"
    dims = layout.head_dim // 2
    both = ("rope.dimension_count", "rope.dimension_count_swa")
    if all(f"{ARCH}.{key}" in file.metadata for key in both):
        dims = file.get_int(f"{ARCH}.{both[0]}")
    info = file.tensors.get(name)
    if info is None or len(info.shape) != 1 or dims < 4 or info.shape[0] < dims // 2 or dims == layout.head_dim:
        return
    found, base = file.array(name), file.get_float(f"{ARCH}.rope.freq_base")
    if not base > 1.0:
        return
    right, early = llama3_factors(dims, base), llama3_factors(layout.head_dim, base)[: dims // 2]
    used = found[: dims // 2]
    if np.allclose(right, early, TOLERANCE) or not np.allclose(used, early, TOLERANCE):
        return
    fixed = found.copy()
    fixed[: dims // 2], fixed[dims // 2 :] = right, 1.0
    what = f"made by an early converter, for {layout.head_dim} rotated dims where full layers have {dims}"
    text = f"--fix computes it for {dims}; long texts profit"
    yield Finding("rope-freqs", "fault", name, what, Repair(text, tensors={name: replace_by(fixed)}))


def llama3_factors(dims: int, base: float) -> Floats:
    """(dims / 2,): what the wavelength of each pair is stretched by."""
    wavelengths = 2 * np.pi * base ** (np.arange(dims // 2) * 2.0 / dims)
    share = np.clip((TRAINED_LENGTH / wavelengths - LOW) / (HIGH - LOW), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - share) / SCALING + share), np.float32)


def _blocks(numbers: dict[int, int]) -> str:
    found = sorted(numbers)
    return f"block {found[0]}" if len(found) == 1 else f"blocks {found[0]} to {found[-1]}, {len(found)} of them"
