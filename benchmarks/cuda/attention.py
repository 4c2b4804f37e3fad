"""M6: attention of a full and of a sliding layer over 4 K and 32 K keys, by few rows and by a prompt's."""

import numpy as np

from benchmarks.cuda.bench import Bench
from benchmarks.cuda.timing import Call
from stepahead.backends.base import BLOCK_SIZE, AttentionRows

KV_HEADS, HEAD_DIM, WINDOW = 8, 128, 512
LAYERS = {"full": (64, None), "sliding": (96, WINDOW)}
"""Query heads, window."""
CONTEXTS = (4096, 32768)
ROWS = (1, 4)
PROMPT_ROWS = 512


def measure(bench: Bench) -> None:
    for kv_type in ("f16",) if bench.is_toy else ("f16", "q8_0"):
        for context in (100,) if bench.is_toy else CONTEXTS:
            for name in ("full",) if bench.is_toy else LAYERS:
                if bench.has_time("M6", f"{name}, {context} keys, {kv_type}"):
                    _measure_layer(bench, name, context, kv_type)
                    bench.free_memory()


def _measure_layer(bench: Bench, name: str, context: int, kv_type: str) -> None:
    heads, window = LAYERS[name]
    kv_heads, head_dim = (1, 64) if bench.is_toy else (KV_HEADS, HEAD_DIM)
    heads = heads * kv_heads // KV_HEADS
    num_blocks = -(-context // BLOCK_SIZE)
    seen = context if window is None else min(context, window + BLOCK_SIZE)
    probe = bench.backend.new_kv(1, kv_heads, head_dim, kv_type)
    nbytes = probe.nbytes * seen // BLOCK_SIZE
    kvs = [bench.backend.new_kv(num_blocks, kv_heads, head_dim, kv_type) for _ in range(bench.copies(nbytes))]
    for kv in kvs:
        for plane in kv.planes:
            if plane.is_floating_point():
                plane.normal_()
            else:
                plane.random_(-127, 128)
    bench.backend.begin_step()
    counts = ROWS[:1] if bench.is_toy else (*ROWS, PROMPT_ROWS)
    cases: dict[str, list[Call]] = {}
    for count in counts:
        q, rows = bench.rows(count, heads * head_dim), _rows(context, count, window, num_blocks)
        cases[str(count)] = [lambda kv=kv, q=q, rows=rows: bench.backend.attention(q, kv, rows, head_dim**-0.5)
                             for kv in (kvs if count <= max(ROWS) else kvs[:1])]  # fmt: skip
    for count, seconds in bench.timer.seconds(cases).items():
        case = f"{name}, {context} keys, {kv_type}, {count} rows"
        bench.report("M6", case, us=1e6 * seconds, gb_s=nbytes / seconds / 1e9, share=bench.share(nbytes, seconds))


def _rows(context: int, count: int, window: int | None, num_blocks: int) -> AttentionRows:
    """The last `count` positions, in blocks that lie anywhere."""
    positions = np.arange(context - count, context, dtype=np.int32)
    first = np.zeros_like(positions) if window is None else np.maximum(positions - (window - 1), 0).astype(np.int32)
    table = np.random.default_rng(0).permutation(num_blocks).astype(np.int32)[None, :]
    slots = table[0, positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
    return AttentionRows(positions, first, np.zeros_like(positions), table, slots.astype(np.int32))
