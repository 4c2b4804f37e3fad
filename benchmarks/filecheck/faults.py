"""Ways in which files are broken, each as a change of a good one, and what should be said of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.filecheck.altered import Altered
from benchmarks.filecheck.good import Good
from stepahead.filecheck.attention_checks import PATTERN, llama3_factors
from stepahead.filecheck.layout import ARCH
from stepahead.filecheck.repair import Edit, replace_by, swap_halves
from stepahead.gguf import GGUFFile, TensorInfo, TypedValue, ValueType
from stepahead.gguf.block_name import block_number
from stepahead.gguf.block_quants import Bytes

COUNT = "attention.head_count"
GROUPS = {
    "all": ("",),
    "enorm and hnorm": (".enorm.", ".hnorm."),
    "hnorm": (".hnorm.",),
    "enorm": (".enorm.",),
    "attn_norm and ffn_norm": (".attn_norm.", ".ffn_norm."),
    "q and k norms": ("_q_norm.", "_k_norm."),
    "shared_head_norm": (".shared_head_norm.",),
}
Alter = Callable[[Good], GGUFFile | None]
"""None: not of this file."""


@dataclass(frozen=True, slots=True)
class Fault:
    """kinds: what a finding of it may be called.   is_repairable: the good file comes out."""

    name: str
    kinds: tuple[str, ...]
    alter: Alter
    is_repairable: bool = True


def in_headers() -> Iterator[Fault]:
    """What headers and samples may show."""
    yield Fault("no heads", ("heads-missing",), _no_heads, False)
    yield Fault("one of three heads", ("heads-few", "heads-count"), _one_head, False)
    yield Fault("heads not declared", ("heads-count",), lambda good: _pairs(good, nextn_predict_layers=0))
    yield Fault("one of the heads declared", ("heads-count",), _one_declared)
    yield Fault("counts and lists of the trunk", ("heads-count",), _trunk_metadata)
    yield Fault("lists that end before the heads", ("list-length",), _short_lists)
    yield Fault("a head without attn_k", ("head-incomplete",), lambda good: _without(good, "attn_k."), False)
    yield Fault("a head without enorm", ("head-incomplete",), lambda good: _without(good, "nextn.enorm"), False)
    yield Fault("eh_proj on its side", ("shape",), _on_its_side, False)
    yield Fault("a wrong head count", ("head-count",), _half_the_heads)
    yield Fault("full instead of sliding heads", ("window",), _full_heads)
    yield Fault("the same with their head count", ("window", "head-count"), _full_heads_and_count)
    yield Fault("rope_freqs of early converters", ("rope-freqs",), _early_factors)
    yield Fault("eh_proj all zero", ("untrained",), lambda good: _zeros(good, "nextn.eh_proj"), False)
    yield Fault(
        "output matrix of one head zero", ("untrained",), lambda good: _zeros(good, "nextn.shared_head_head", 1), False
    )
    yield Fault("norms of the heads 1", ("untrained",), _fresh, False)
    yield Fault("a value that is no number", ("not-finite",), _not_finite, False)
    for times, what in ((0, "without 1"), (2, "with 1 twice")):
        for group, marks in GROUPS.items():
            yield Fault(f"{group} {what}", ("norm-offset",), _norms(times, marks))
        yield Fault(f"all of one head {what}", ("norm-offset",), _norms(times, ("",), 1))
        yield Fault(f"norms of the whole file {what}", ("norm-offset",), _whole_file(times))


def in_drafts() -> Iterator[Fault]:
    """What may need a run."""
    yield Fault(
        "halves of eh_proj swapped", ("concat-order",), lambda good: _edit(good, {"nextn.eh_proj": swap_halves})
    )
    yield Fault("rows of q and k by pairs", ("rope-layout",), lambda good: _interleaved(good, ("attn_q.", "attn_k.")))
    with_norms = ("attn_q.", "attn_k.", "attn_q_norm.", "attn_k_norm.")
    yield Fault("the same with their norms", ("rope-layout",), lambda good: _interleaved(good, with_norms))
    yield Fault("heads of shuffled rows", ("untrained",), _shuffled_heads, False)
    yield Fault("heads of another vocabulary", ("untrained",), _turned_vocabulary, False)
    for times, what in ((0, "without 1"), (2, "with 1 twice")):
        for group, marks in GROUPS.items():
            yield Fault(f"{group} {what}", ("norm-offset",), _norms(times, marks))
        yield Fault(f"norms of the whole file {what}", ("norm-offset", "trunk"), _whole_file(times))


def _u32(value: int) -> TypedValue:
    return TypedValue(ValueType.U32, value)


def _pairs(good: Good, **values: int) -> GGUFFile | None:
    return Altered(good.file, pairs={f"{ARCH}.{key}": _u32(value) for key, value in values.items()})


def _list(good: Good, changed: Mapping[str, Any]) -> GGUFFile:
    return Altered(good.file, pairs={f"{ARCH}.{key}": good.layout.like(key, value) for key, value in changed.items()})


def _no_heads(good: Good) -> GGUFFile | None:
    return Altered(good.file, without=[f"blk.{block}." for block in good.layout.heads])


def _one_head(good: Good) -> GGUFFile | None:
    return Altered(good.file, without=[f"blk.{block}." for block in good.layout.heads[1:]])


def _one_declared(good: Good) -> GGUFFile | None:
    return _pairs(good, nextn_predict_layers=1) if len(good.layout.heads) > 1 else None


def _lists(good: Good) -> dict[str, TypedValue]:
    keys = (COUNT, "attention.head_count_kv", PATTERN)
    return {f"{ARCH}.{key}": good.layout.like(key, good.layout.per_layer(key)[: good.layout.num_trunk]) for key in keys}


def _short_lists(good: Good) -> GGUFFile | None:
    return Altered(good.file, pairs=_lists(good))


def _trunk_metadata(good: Good) -> GGUFFile | None:
    counts = {f"{ARCH}.block_count": _u32(good.layout.num_trunk), f"{ARCH}.nextn_predict_layers": _u32(0)}
    return Altered(good.file, pairs={**_lists(good), **counts})


def _without(good: Good, part: str) -> GGUFFile | None:
    names = [name for name in good.file.tensors if name.startswith(f"blk.{good.layout.heads[-1]}.{part}")]
    return Altered(good.file, without=names) if names else None


def _on_its_side(good: Good) -> GGUFFile | None:
    name = f"blk.{good.layout.heads[0]}.nextn.eh_proj.weight"
    shape = good.file.tensors[name].shape
    return Altered(good.file, shapes={name: shape[::-1]})


def _half_the_heads(good: Good) -> GGUFFile | None:
    counts = good.layout.per_layer(COUNT).copy()
    counts[good.layout.heads[-1]] //= 2
    return _list(good, {COUNT: counts})


def _kinds_differ(good: Good) -> bool:
    counts, pattern = good.layout.per_layer(COUNT), good.layout.per_layer(PATTERN)
    own = {(bool(pattern[block]), int(counts[block])) for block in range(good.layout.num_trunk)}
    return len(own) == 2 and len({count for _, count in own}) == 2


def _full_heads(good: Good) -> GGUFFile | None:
    """Nothing in headers tells it where all layers are of one kind, or have as many query heads."""
    if not _kinds_differ(good):
        return None
    pattern = good.layout.per_layer(PATTERN).copy()
    pattern[list(good.layout.heads)] = False
    return _list(good, {PATTERN: pattern})


def _full_heads_and_count(good: Good) -> GGUFFile | None:
    if not _kinds_differ(good):
        return None
    heads, pattern, counts = list(good.layout.heads), *(good.layout.per_layer(key).copy() for key in (PATTERN, COUNT))
    counts[heads] = counts[int(np.argmin(pattern))]
    pattern[heads] = False
    return _list(good, {PATTERN: pattern, COUNT: counts})


def _early_factors(good: Good) -> GGUFFile | None:
    if "rope_freqs.weight" not in good.file.tensors:
        return None
    size = good.file.tensors["rope_freqs.weight"].shape[0]
    return Altered(good.file, {"rope_freqs.weight": replace_by(llama3_factors(2 * size, 5e6))})


def _edit(good: Good, parts: Mapping[str, Edit], heads: Sequence[int] | None = None) -> GGUFFile | None:
    chosen = good.layout.heads if heads is None else heads
    edits = {f"blk.{block}.{part}.weight": edit for block in chosen for part, edit in parts.items()}
    return Altered(good.file, {name: edit for name, edit in edits.items() if name in good.file.tensors})


def _zeros(good: Good, part: str, count: int | None = None) -> GGUFFile | None:
    return _edit(good, {part: lambda data, info: np.zeros_like(data)}, good.layout.heads[:count])


def _of_heads(good: Good, marks: Sequence[str], count: int | None = None) -> list[str]:
    chosen = good.layout.heads[:count]
    return [name for name in good.norms if block_number(name) in chosen and any(mark in name for mark in marks)]


def _norms(times: int, marks: Sequence[str], count: int | None = None) -> Alter:
    def alter(good: Good) -> GGUFFile | None:
        names = _of_heads(good, marks, count)
        return Altered(good.file, {name: replace_by(good.stored(name, times)) for name in names}) if names else None

    return alter


def _whole_file(times: int) -> Alter:
    def alter(good: Good) -> GGUFFile | None:
        return Altered(good.file, {name: replace_by(good.stored(name, times)) for name in good.norms})

    return alter


def _fresh(good: Good) -> GGUFFile | None:
    names = _of_heads(good, ("",))
    return Altered(good.file, {name: replace_by(np.ones(good.file.tensors[name].shape, np.float32)) for name in names})


def _not_finite(good: Good) -> GGUFFile | None:
    name = f"blk.{good.layout.heads[0]}.nextn.hnorm.weight"
    values = good.stored(name, 1).copy()
    values[-1] = np.inf

    return Altered(good.file, {name: lambda data, info: values.view(np.uint8)})


def _interleaved(good: Good, marks: Sequence[str]) -> GGUFFile | None:
    dim = good.layout.head_dim
    order = np.arange(dim).reshape(2, -1).T.ravel()

    def edit(data: Bytes, info: TensorInfo) -> Bytes:
        if len(info.shape) == 1:
            return data.view(np.float32)[order].view(np.uint8)
        return data[(np.arange(len(data) // dim)[:, None] * dim + order).ravel()]

    heads = tuple(f"blk.{block}." for block in good.layout.heads)
    names = [name for name in good.file.tensors if name.startswith(heads) and any(mark in name for mark in marks)]
    return Altered(good.file, dict.fromkeys(names, edit))


def _shuffled_heads(good: Good) -> GGUFFile | None:
    """Numbers like those of trained heads that mean nothing."""
    names = [name for name in good.layout.names(good.layout.heads) if name not in good.norms]
    return Altered(good.file, dict.fromkeys(names, lambda data, info: np.random.default_rng(1).permutation(data)))


def _turned_vocabulary(good: Good) -> GGUFFile | None:
    """Of a model with the same tokens in another order."""
    return _edit(good, {"nextn.shared_head_head": lambda data, info: np.roll(data, len(data) // 2, axis=0)})
