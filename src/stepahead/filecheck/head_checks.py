"""Are the heads there, all of them and whole, and does the metadata count them? From headers alone."""

from collections.abc import Iterator
from typing import Any

from stepahead.filecheck.finding import Finding, heads_named
from stepahead.filecheck.layout import ARCH, Layout
from stepahead.filecheck.repair import Repair
from stepahead.gguf import TypedValue, ValueType
from stepahead.model_info import EXPECTED_HEADS

GET_HEADS = (
    "give a file that has them with --mtp HEADS, put them in with `stepahead join`, or fetch them with `stepahead pull`"
)
REQUIRED = (
    "nextn.eh_proj", "nextn.enorm", "nextn.hnorm", "attn_norm", "ffn_norm", "attn_output", "ffn_gate", "ffn_up",
    "ffn_down",
)  # fmt: skip
OPTIONAL = ("attn_gate.weight", "attn_q_norm.weight", "attn_k_norm.weight")  # but all blocks have them, or none
DEFAULTS: dict[str, Any] = {  # of a head, in per-layer lists, where no shape says it
    "attention.head_count": 1,
    "attention.head_count_kv": 1,
    "attention.sliding_window_pattern": True,
    "swiglu_clamp_exp": 0.0,
    "swiglu_clamp_shexp": 0.0,
}


def check_heads(layout: Layout) -> Iterator[Finding]:
    """Heads that are missing, few, undeclared or incomplete."""
    yield from _presence(layout)
    if layout.is_contiguous:
        yield from _counts(layout)
    elif layout.heads:
        first = layout.heads[0] if layout.is_companion else 0
        expected = [*range(first, first + len(layout.trunk) + len(layout.heads))][-len(layout.heads) :]
        what = f"stand in blocks {list(layout.heads)}, and should in {expected}"
        yield Finding("heads-numbering", "fault", "heads", what, Repair("convert them again"))
    for block in layout.heads:
        yield from _completeness(layout, block)
        yield from _shapes(layout, block)


def _presence(layout: Layout) -> Iterator[Finding]:
    found = len(layout.heads)
    if found == 0:
        declared = f", though the metadata declares {layout.declared_heads}" if layout.declared_heads else ""
        yield Finding("heads-missing", "note", "heads", f"there are none{declared}", Repair(GET_HEADS))
    elif found < EXPECTED_HEADS:
        what = f"{found} of the {EXPECTED_HEADS} that the published models have"
        yield Finding("heads-few", "note", "heads", what, Repair(GET_HEADS.replace("has them", "has all")))


def _counts(layout: Layout) -> Iterator[Finding]:
    """block_count and nextn_predict_layers against the blocks that are there, and lists as long as block_count."""
    declared = layout.declared_blocks, layout.declared_heads
    found = layout.num_blocks, len(layout.heads)
    if not layout.heads and declared[0] - declared[1] == layout.num_trunk:
        found = declared  # heads that are declared and absent harm nobody
    resized = {key: _resized(layout, key, found[0]) for key in DEFAULTS}
    wrong = {f"{ARCH}.{key}": value for key, value in resized.items() if value is not None}
    if declared != found:
        counts: dict[str, TypedValue | None] = {f"{ARCH}.block_count": TypedValue(ValueType.U32, found[0])}
        key = f"{ARCH}.nextn_predict_layers"
        counts[key] = TypedValue(ValueType.U32, found[1]) if found[1] else None
        what = (
            f"declares {declared[0]} blocks, {declared[1]} of them heads, and has {found[0]} blocks with {found[1]} "
            f"head{'s' * (found[1] != 1)}"
        )
        yield Finding("heads-count", "fault", key, what, Repair("--fix writes what is there", counts | wrong))
    elif wrong:
        lengths = sorted({len(layout.per_layer(key)) for key in resized if resized[key] is not None})
        what = f"{len(wrong)} per-layer lists of {' and '.join(map(str, lengths))} values for {found[0]} blocks"
        text = "--fix makes them as long, heads with sliding attention and the query heads that their matrices have"
        yield Finding("list-length", "fault", " and ".join(wrong), what, Repair(text, wrong))


def _resized(layout: Layout, key: str, length: int) -> TypedValue | None:
    """None where the list has that length, or is none."""
    old = layout.per_layer(key)
    if old is None or len(old) == length:
        return None
    shapes = {"attention.head_count": layout.query_heads, "attention.head_count_kv": layout.kv_heads}
    values: list[Any] = list(old[:length])
    for block in range(len(values), length):
        found = shapes[key](block) if key in shapes else None
        values.append(DEFAULTS[key] if found is None else found)
    return layout.like(key, values)


def _completeness(layout: Layout, block: int) -> Iterator[Finding]:
    """What the loader demands, and what the other heads have."""
    tensors, prefix = layout.file.tensors, f"blk.{block}."
    needed = [f"{prefix}{part}.weight" for part in REQUIRED]
    if f"{prefix}attn_qkv.weight" not in tensors:
        needed += [f"{prefix}attn_{part}.weight" for part in "qkv"]
    if f"{prefix}ffn_gate_inp.weight" in tensors:  # a mixture of experts, whose tensors the loader knows
        needed = [name for name in needed if ".ffn_" not in name or "norm" in name]
    missing = [name for name in needed if name not in tensors]
    others = {name.split(".", 2)[2] for name in layout.names(layout.heads) if not name.startswith(prefix)}
    others |= {part for part in OPTIONAL if all(f"blk.{other}.{part}" in tensors for other in layout.trunk or (block,))}
    lacking = [f"{prefix}{part}" for part in sorted(others) if f"{prefix}{part}" not in {*tensors, *missing}]
    where = heads_named([layout.number(block)])
    if missing:
        what = f"lacks {', '.join(missing)}"
        yield Finding("head-incomplete", "fault", where, what, Repair(GET_HEADS))
    elif lacking:
        what = f"lacks {', '.join(lacking)}, which other blocks of this file have"
        yield Finding("head-incomplete", "unclear", where, what, Repair(GET_HEADS))


def _shapes(layout: Layout, block: int) -> Iterator[Finding]:
    """Of what only heads have; those of a block's other matrices are in its per-layer lists."""
    tensors, width = layout.file.tensors, layout.file.get_int(f"{ARCH}.embedding_length", 0)
    table = tensors.get("token_embd.weight")
    vocab = table.shape[0] if table is not None else 0
    expected = {
        "eh_proj": (width, 2 * width),
        "enorm": (width,),
        "hnorm": (width,),
        "shared_head_norm": (width,),
        "shared_head_head": (vocab, width),
        "embed_tokens": (vocab, width),
    }
    for part, shape in expected.items():
        info = tensors.get(f"blk.{block}.nextn.{part}.weight")
        if info is not None and info.shape not in (shape, (1, *shape)) and all(shape):
            what = f"has the shape {list(info.shape)}, and should have {list(shape)}"
            yield Finding("shape", "fault", info.name, what, Repair("convert it again"))
