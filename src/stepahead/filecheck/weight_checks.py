"""Heads whose matrices hold nothing: zeros, values that are not finite, norms as before the first training step.

Rows are sampled; a matrix whose samples are all zero is read whole before that is said.
"""

from collections.abc import Iterator

import numpy as np

from stepahead.filecheck.finding import Finding, heads_named
from stepahead.filecheck.head_checks import GET_HEADS
from stepahead.filecheck.layout import Layout
from stepahead.filecheck.repair import Repair
from stepahead.gguf import GGUFFile, dequantize
from stepahead.gguf.block_quants import Floats

NUM_SAMPLES = 12  # rows of a matrix
PIECE = 1024  # rows read at once
# A head whose matrix of this name is all zero drafts nothing of use. A zero norm is a norm without its 1.
MATRICES = ("eh_proj", "shared_head_head", "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_gate",
            "ffn_up", "ffn_down")  # fmt: skip


def check_weights(layout: Layout) -> Iterator[Finding]:
    """Faults of a head's numbers that need no comparison."""
    zeros: dict[str, list[int]] = {}
    fresh: list[int] = []
    for block in layout.heads:
        names = list(layout.names([block]))
        broken = [name for name in names if not np.isfinite(_samples(layout.file, name)).all()]
        if broken:
            what = f"{len(broken)} tensors have values that are not numbers, the first is {broken[0]}"
            yield Finding("not-finite", "fault", heads_named([layout.number(block)]), what, Repair(GET_HEADS))
        for name in names:
            part = name.split(".")[-2]
            if part in MATRICES and _is_zero(layout.file, name):
                zeros.setdefault(part, []).append(layout.number(block))
        if _is_fresh(layout.file, names):
            fresh.append(layout.number(block))
    if zeros:
        heads = sorted({number for numbers in zeros.values() for number in numbers})
        yield Finding("untrained", "fault", heads_named(heads), f"all zero: {', '.join(zeros)}", Repair(GET_HEADS))
    if fresh:
        what = "every norm weight is 1, as before training; the heads may never have been trained"
        yield Finding("untrained", "unclear", heads_named(fresh), what, Repair("--measure settles it"))


def _samples(file: GGUFFile, name: str) -> Floats:
    """Rows from all over a tensor; all of a vector."""
    data = file.data(name)
    rows = data.reshape(-1, data.shape[-1])
    picked = np.unique(np.linspace(0, len(rows) - 1, NUM_SAMPLES).astype(np.int64))
    return dequantize(rows[picked], file.tensors[name].type)


def _is_zero(file: GGUFFile, name: str) -> bool:
    if _samples(file, name).any():
        return False
    data = file.data(name)
    rows = data.reshape(-1, data.shape[-1])
    type = file.tensors[name].type
    return not any(dequantize(rows[start : start + PIECE], type).any() for start in range(0, len(rows), PIECE))


def _is_fresh(file: GGUFFile, names: list[str]) -> bool:
    norms = [name for name in names if name.endswith("norm.weight")]
    return bool(norms) and all((file.array(name) == 1.0).all() for name in norms)
