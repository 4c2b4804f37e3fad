"""What `run.py` measures: one case an op, with the shapes of a Step-3.5 layer.

A case is built for a backend and a number of rows; it gives the call to time, the bytes that the call must read or
write, and its result for the comparison of bits.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from weights import random_weights

from stepahead import _native
from stepahead.backends.base import PANEL_ROWS, AttentionRows, Floats, Rope
from stepahead.backends.cpu.layouts import PANELS
from stepahead.backends.cpu.ops import CpuBackend
from stepahead.gguf import QuantType

TYPES = [type for type in QuantType if type.id in _native.NATIVE_TYPES]
HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 4096, 64, 8, 128
EXPERTS, EXPERT_WIDTH, TOP_K = 32, 1280, 8


@dataclass(frozen=True, slots=True)
class Case:
    run: Callable[[], object]
    nbytes: int
    result: Callable[[], Floats]


def normal(rows: int, width: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal((rows, width), np.float32)


def simple(run: Callable[[], object], nbytes: int) -> Case:
    """A call whose result is its activations, or an array."""

    def result() -> Floats:
        y = run()
        return np.asarray(y.numpy() if hasattr(y, "numpy") else y, np.float32)

    return Case(run, nbytes, result)


def linear(b: CpuBackend, rows: int, type: QuantType, mib: int) -> Case:
    num_out = max(8, (mib << 20) // type.row_bytes(HIDDEN))
    data = random_weights(np.random.default_rng(0), type, (num_out, HIDDEN))
    matrix, x = b.load_matrix(data, type, (num_out, HIDDEN)), b.upload(normal(rows, HIDDEN))
    return simple(lambda: b.linear(x, matrix), matrix.nbytes)


def whole_panels(type: QuantType, mib: int) -> int:
    """Output rows of a matrix of so many mebibytes."""
    return max(1, (mib << 20) // type.row_bytes(HIDDEN) // PANEL_ROWS) * PANEL_ROWS


def linear_in_panels(b: CpuBackend, rows: int, type: QuantType, mib: int) -> Case:
    """`linear` of repacked weights."""
    shape = (whole_panels(type, mib), HIDDEN)
    data = random_weights(np.random.default_rng(0), type, shape)
    panels = np.empty(data.size, np.uint8)
    b.repack(data, type, shape, PANELS, panels)
    matrix, x = b.load_matrix(panels, type, shape, PANELS), b.upload(normal(rows, HIDDEN))
    return simple(lambda: b.linear(x, matrix), matrix.nbytes)


def repack(b: CpuBackend, rows: int, type: QuantType, mib: int) -> Case:
    """Weights of the file into panels: as many rows of them as fit, whatever `rows` is."""
    shape = (whole_panels(type, mib), HIDDEN)
    data = random_weights(np.random.default_rng(0), type, shape)
    out = np.empty(data.size, np.uint8)

    def packed() -> Floats:
        b.repack(data, type, shape, PANELS, out)
        return out[None].astype(np.float32)

    return Case(lambda: b.repack(data, type, shape, PANELS, out), 2 * data.nbytes, packed)


def linear_many(b: CpuBackend, rows: int, type: QuantType, mib: int) -> Case:
    widths = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, HEADS)
    rng, x = np.random.default_rng(0), b.upload(normal(rows, HIDDEN))
    matrices = [b.load_matrix(random_weights(rng, type, (n, HIDDEN)), type, (n, HIDDEN)) for n in widths]

    def joined() -> Floats:
        return np.concatenate([y.numpy() for y in b.linear_many(x, matrices)], axis=1)

    return Case(lambda: b.linear_many(x, matrices), sum(m.nbytes for m in matrices), joined)


def moe_ffn(b: CpuBackend, rows: int, type: QuantType, mib: int) -> Case:
    rng = np.random.default_rng(0)
    shapes = [(EXPERTS, EXPERT_WIDTH, HIDDEN)] * 2 + [(EXPERTS, HIDDEN, EXPERT_WIDTH)]
    matrices = [b.load_matrix(random_weights(rng, type, shape), type, shape) for shape in shapes]
    x, routing = b.upload(normal(rows, HIDDEN)), b.moe_route(b.upload(normal(rows, EXPERTS)), None, TOP_K, True, 3.0)
    chosen = len(np.unique(routing.ids()))
    nbytes = sum(m.nbytes for m in matrices) * chosen // EXPERTS
    return simple(lambda: b.moe_ffn(x, routing, *matrices, 0.0), nbytes)


def embed(b: CpuBackend, rows: int, type: QuantType, mib: int) -> Case:
    shape = (1024, HIDDEN)
    table = b.load_matrix(random_weights(np.random.default_rng(0), type, shape), type, shape)
    ids = np.arange(rows, dtype=np.int32) * 7
    return simple(lambda: b.embed(table, ids), rows * type.row_bytes(HIDDEN))


def attention_rows(rows: int, context: int) -> AttentionRows:
    """`rows` last positions of one sequence of `context` tokens."""
    positions = np.arange(context - rows, context, dtype=np.int32)
    table = np.arange(-(-context // 64), dtype=np.int32)[None]
    zeros = np.zeros(rows, np.int32)
    return AttentionRows(positions, zeros, zeros, table, positions)


def attention(b: CpuBackend, rows: int, kv_type: str, mib: int) -> Case:
    context = 4096
    kv = b.new_kv(context // 64, KV_HEADS, HEAD_DIM, kv_type)
    every = attention_rows(context, context)
    b.kv_write(kv, *(b.upload(normal(context, KV_HEADS * HEAD_DIM, seed)) for seed in (1, 2)), every)
    at, q = attention_rows(rows, context), b.upload(normal(rows, HEADS * HEAD_DIM))
    return simple(lambda: b.attention(q, kv, at, HEAD_DIM**-0.5), kv.nbytes)


def kv_write(b: CpuBackend, rows: int, kv_type: str, mib: int) -> Case:
    kv, at = b.new_kv(1, KV_HEADS, HEAD_DIM, kv_type), attention_rows(rows, rows)
    k, v = (b.upload(normal(rows, KV_HEADS * HEAD_DIM, seed)) for seed in (1, 2))
    kv.numpy()[:] = 0

    def stored() -> Floats:
        b.kv_write(kv, k, v, at)
        return kv.numpy()[None].astype(np.float32)

    return Case(lambda: b.kv_write(kv, k, v, at), kv.nbytes * rows // 64, stored)


def on_rows(op: str, b: CpuBackend, rows: int) -> Case:
    """The ops that only touch activations."""
    x, y = b.upload(normal(rows, HIDDEN)), b.upload(normal(rows, HIDDEN, 1))
    q, gate = b.upload(normal(rows, HEADS * HEAD_DIM)), b.upload(normal(rows, HEADS))
    logits, wide = b.upload(normal(rows, 288)), b.upload(normal(rows, 128896))
    weight, head_weight = b.load_vector(normal(1, HIDDEN, 2)[0]), b.load_vector(normal(1, HEAD_DIM, 2)[0])
    positions, ids = np.arange(rows, dtype=np.int32), np.arange(128896)
    rope = Rope(HEAD_DIM, 1e4)
    table = b.rope_table(rope, positions)
    row, head = HIDDEN * 4 * rows, HEADS * HEAD_DIM * 4 * rows

    def scatter() -> Floats:
        b.scatter_rows(x, positions, y)
        return x.numpy()

    runs: dict[str, tuple[Callable[[], object], int]] = {
        "rms_norm": (lambda: b.rms_norm(x, weight, 1e-5), 2 * row),
        "add": (lambda: b.add(x, y), 3 * row),
        "concat": (lambda: b.concat(x, y), 4 * row),
        "gather_rows": (lambda: b.gather_rows(x, positions), 2 * row),
        "scatter_rows": (scatter, 2 * row),
        "argmax": (lambda: b.argmax(wide), 128896 * 4 * rows),
        "rope_table": (lambda: b.rope_table(rope, positions).cos, HEAD_DIM * 4 * rows),
        "qk_norm_rope": (lambda: b.qk_norm_rope(q, head_weight, 1e-5, table, HEAD_DIM), 2 * head),
        "head_gate": (lambda: b.head_gate(q, gate), 2 * head),
        "swiglu": (lambda: b.swiglu(x, y, 0.0), 3 * row),
        "moe_route": (lambda: b.moe_route(logits, None, TOP_K, True, 3.0).weights(), 288 * 4 * rows),
        "token_words": (lambda: b.token_words(1, rows, ids), 128896 * 4),
    }
    return simple(*runs[op])


WITH_TYPES = {"linear": linear, "linear_many": linear_many, "moe_ffn": moe_ffn, "embed": embed}
WITH_PANELS = {"linear_in_panels": linear_in_panels, "repack": repack}
WITH_KV_TYPES = {"attention": attention, "kv_write": kv_write}
ON_ROWS = [
    *("rms_norm", "add", "concat", "gather_rows", "scatter_rows", "argmax"),
    *("rope_table", "qk_norm_rope", "head_gate", "swiglu", "moe_route", "token_words"),
]
OPS = [*WITH_TYPES, *WITH_PANELS, *WITH_KV_TYPES, *ON_ROWS]


def variants(op: str) -> list[str]:
    if op in WITH_TYPES:
        return [type.name for type in TYPES]
    if op in WITH_PANELS:
        return [type.name for type in TYPES if type.block_size > 1]
    return ["f16", "f32", "q8_0"] if op in WITH_KV_TYPES else [""]


def make(op: str, variant: str, b: CpuBackend, rows: int, mib: int) -> Case:
    if op in WITH_TYPES:
        return WITH_TYPES[op](b, rows, QuantType[variant], mib)
    if op in WITH_PANELS:
        return WITH_PANELS[op](b, rows, QuantType[variant], mib)
    if op in WITH_KV_TYPES:
        return WITH_KV_TYPES[op](b, rows, variant, mib)
    return on_rows(op, b, rows)
