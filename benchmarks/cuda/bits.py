"""M1: does a row have the same bits whatever lies beside it? And do tiles of another size give other bits?

Every difference is reported by the name of what was compared. What kernels may choose by the number of rows hangs on
the second question: `tl.dot` of tiles of several sizes, which become other instructions, over the same numbers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.cuda.bench import Bench
from benchmarks.cuda.kernels import dot
from benchmarks.cuda.made_weights import made_matrix
from stepahead.backends.base import BLOCK_SIZE, AttentionRows
from stepahead.backends.cuda.configs import LinearConfig
from stepahead.backends.cuda.formats.format import FORMATS
from stepahead.backends.cuda.kernels import linear as linear_module
from stepahead.backends.cuda.kv import KVBlocks
from stepahead.backends.cuda.rows import Rows
from stepahead.backends.cuda.tile_check import TileCheck
from stepahead.gguf import QuantType

FEW = tuple(range(1, 17))
MANY = (17, 32, 64, 128)
SHAPES = ((2048, 4096), (1024, 12288))
"""Of the second, K is summed in parts."""
TOGETHER = (1024, 1024, 8192, 64)
EXPERTS = (64, 8, 256, 1024)
"""Number, top_k, width, inputs."""
ATTENTION = (1200, 64, 8, 128)
"""Keys, query heads, KV heads, width of a head."""
FIRST = (QuantType.Q4_K, QuantType.Q6_K, QuantType.Q8_0, QuantType.F32)
OutOf = Callable[[torch.Tensor], torch.Tensor]
"""From rows to rows, each by itself."""


def measure(bench: Bench) -> None:
    _self_check(bench)
    counts = (1, 3) if bench.is_toy else (*FEW, *MANY)
    _products(bench, FIRST[:1] if bench.is_toy else FIRST, counts)
    _together(bench, counts[:1] if bench.is_toy else (1, 4, 16, 64))
    _row_ops(bench, counts)
    if bench.has_time("M1", "experts"):
        _experts(bench, counts[:2] if bench.is_toy else counts)
    for kv_type in ("f16",) if bench.is_toy else ("f16", "q8_0", "f32"):
        if bench.has_time("M1", f"attention {kv_type}"):
            _attention(bench, kv_type, counts[:2] if bench.is_toy else counts)
    if bench.has_time("M1", "tiles"):
        _dot_tiles(bench)
        _product_tiles(bench)
    if not bench.is_toy:
        _products(bench, [type for type in FORMATS if type not in FIRST], (1, 4, 16, 64))


def _self_check(bench: Bench) -> None:
    """What the backend decides where weights of these kinds are loaded; in the interpreter nothing."""
    check, (experts, _, *shape) = TileCheck(bench.backend.device), EXPERTS
    for type in (*FIRST, QuantType.F16, QuantType.BF16):
        for tried in () if bench.is_toy else (*SHAPES, (experts, *shape)):
            check.checked(made_matrix(type, tried, bench.device))
    said = "not tried" if bench.is_toy else check.describe() or "all wide"
    bench.report("M1", "tiles by the backend's own check", said=said)


def _products(bench: Bench, types: Sequence[QuantType], counts: Sequence[int]) -> None:
    for type in types:
        shapes = ((32, 256),) if bench.is_toy else SHAPES if type is QuantType.Q4_K else SHAPES[:1]
        for shape in shapes:
            name = f"linear {type.name}, {shape[0]} x {shape[1]}"
            if bench.has_time("M1", name):
                matrix = made_matrix(type, shape, bench.device)
                _compare(bench, name, lambda x, m=matrix: _linear(bench, x, m), shape[1], counts)


def _together(bench: Bench, counts: Sequence[int]) -> None:
    """Matrices that are multiplied in one call against the same one by one."""
    width = 256 if bench.is_toy else SHAPES[0][1]
    sizes = (32, 48) if bench.is_toy else TOGETHER
    matrices = [made_matrix(QuantType.Q4_K, (size, width), bench.device) for size in sizes]
    faults = []
    for count in counts:
        x = bench.rows(count, width, seed=11)
        for size, matrix, made in zip(sizes, matrices, bench.backend.linear_many(x, matrices), strict=True):
            if not same_bits(made.values, _linear(bench, x.values, matrix)):
                faults.append(f"{size} outputs of {count} rows")
    _say(bench, "linear_many Q4_K", faults)


def _compare(bench: Bench, name: str, out_of: OutOf, width: int, counts: Sequence[int]) -> None:
    """Rows alone against the same rows among others: first, last, and with neighbours that are no numbers."""
    x = bench.rows(max(counts), width, seed=3).values
    probes = sorted({0, 1, 7, 15, 16, 63, max(counts) - 1} & set(range(max(counts))))
    alone = {row: out_of(x[row : row + 1].contiguous()) for row in probes}
    faults: list[str] = []
    for count in counts:
        y = out_of(x[:count].contiguous())
        present = [row for row in probes if row < count]
        faults += [f"row {row} of {count}" for row in present if not same_bits(y[row : row + 1], alone[row])]
        moved = torch.cat([x[1:count], x[:1]]).contiguous()
        if not same_bits(out_of(moved)[-1:], alone[0]):
            faults.append(f"row 0 as the last of {count}")
        spoiled = x[:count].clone()
        spoiled[1:] = float("nan")
        if not same_bits(out_of(spoiled)[:1], alone[0]):
            faults.append(f"row 0 of {count} beside NaN")
    _say(bench, name, faults)


def _row_ops(bench: Bench, counts: Sequence[int]) -> None:
    """Ops from rows to rows, and the halves that they leave for products."""
    width, backend = (64 if bench.is_toy else 4096), bench.backend
    gain = bench.rows(1, width, seed=12)
    ops = {
        "rms_norm": lambda x: backend.rms_norm(x, gain, 1e-5),
        "swiglu": lambda x: backend.swiglu(x, x, 7.0),
        "add": lambda x: backend.add(x, x),
        "concat": lambda x: backend.concat(x, x),
    }
    for name, op in ops.items():

        def out_of(x: torch.Tensor, op: Callable[[Rows], Rows] = op) -> torch.Tensor:
            y = op(Rows(x))
            if y.half is None:
                return y.values
            halves = y.half.values.float()[:, : y.shape[1]] * y.half.exponents[:, None]
            return torch.cat([y.values, halves], dim=1)

        _compare(bench, name, out_of, width, counts)


def _say(bench: Bench, name: str, faults: Sequence[str]) -> None:
    shown = f"{', '.join(faults[:12])}{' …' if len(faults) > 12 else ''}" or "none"
    bench.report("M1", name, differences=shown, target="bits", value=float(len(faults)))


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(torch.equal(a.view(torch.int32), b.view(torch.int32)))


def _linear(bench: Bench, x: torch.Tensor, matrix: object) -> torch.Tensor:
    return bench.backend.linear(Rows(x), matrix).values  # type: ignore[arg-type]


def _experts(bench: Bench, counts: Sequence[int]) -> None:
    """Router, top-k, experts and their sum."""
    experts, top_k, width, hidden = (4, 2, 32, 256) if bench.is_toy else EXPERTS
    router = made_matrix(QuantType.F32, (experts, hidden), bench.device)
    shapes = ((experts, width, hidden), (experts, width, hidden), (experts, hidden, width))
    gate, up, down = (made_matrix(QuantType.Q4_K, shape, bench.device) for shape in shapes)

    def out_of(x: torch.Tensor) -> torch.Tensor:
        backend, rows = bench.backend, Rows(x)
        backend.begin_step()
        routing = backend.moe_route(backend.linear(rows, router), None, top_k, True, 3.0)
        return backend.moe_ffn(rows, routing, gate, up, down, 0.0).values

    _compare(bench, "experts Q4_K", out_of, hidden, counts)


def _attention(bench: Bench, kv_type: str, counts: Sequence[int]) -> None:
    """The last rows of a text, alone and together; keys behind the text and in blocks of nobody are NaN."""
    length, heads, kv_heads, head_dim = (130, 2, 1, 64) if bench.is_toy else ATTENTION
    num_blocks = length // BLOCK_SIZE + 3
    kv = KVBlocks(num_blocks, kv_heads, head_dim, kv_type, bench.device)
    kv.keys.fill_(float("nan") if kv.keys.is_floating_point() else 77)  # values are numbers from the start
    kv.values.fill_(77)
    table = np.random.default_rng(0).permutation(num_blocks)[None, : length // BLOCK_SIZE + 1].astype(np.int32)
    k, v = (bench.rows(length, kv_heads * head_dim, seed) for seed in (1, 2))
    bench.backend.begin_step()
    bench.backend.kv_write(kv, k, v, _rows(table, np.arange(length), None))
    queries = bench.rows(max(counts), heads * head_dim, seed=4).values
    for window in (None, 100 if bench.is_toy else 512):
        faults: list[str] = []

        def mixed(first: int, count: int, window: int | None = window) -> torch.Tensor:
            positions = np.arange(length - max(counts) + first, length - max(counts) + first + count)
            bench.backend.begin_step()
            x = Rows(queries[first : first + count].contiguous())
            return bench.backend.attention(x, kv, _rows(table, positions, window), head_dim**-0.5).values

        for count in counts:
            together = mixed(0, count)
            for row in sorted({0, 1, count // 2, count - 1} & set(range(count))):
                if not same_bits(together[row : row + 1], mixed(row, 1)):
                    faults.append(f"row {row} of {count}")
        _say(bench, f"attention {kv_type}, {'all keys' if window is None else f'window {window}'}", faults)


def _rows(table: np.ndarray, positions: np.ndarray, window: int | None) -> AttentionRows:
    places = positions.astype(np.int32)
    first = np.zeros_like(places) if window is None else np.maximum(places - (window - 1), 0).astype(np.int32)
    slots = table[0, places // BLOCK_SIZE] * BLOCK_SIZE + places % BLOCK_SIZE
    return AttentionRows(places, first, np.zeros_like(places), table, slots.astype(np.int32))


# --- tiles ---

SIZES = (16, 32, 64, 128)
CASES = [(bn, rows, 1, 256) for bn in SIZES for rows in (8, 16, 64, 128)]
CASES += [(bn, 16, 3, 256) for bn in SIZES[:3]] + [(bn, 16, 1, 64) for bn in SIZES]
"""Outputs, rows, stages, inputs of a dot; a warp for each 16 outputs."""
CONFIGS = ((64, 16, 1), (16, 16, 1), (32, 16, 1), (128, 16, 1), (64, 16, 3), (64, 64, 1), (128, 64, 1), (128, 128, 1))
"""Outputs, rows, stages of a product of packed weights; the first is what the others are compared with."""


def _dot_tiles(bench: Bench) -> None:
    """Of the dot alone, the corner of 16 outputs and 8 rows."""
    width = 256 if bench.is_toy else SHAPES[0][1]
    w, x = (bench.rows(128, width, seed).values.half() for seed in (5, 6))

    def corner(case: tuple[int, int, int, int]) -> torch.Tensor:
        outs, rows, stages, step = case
        y = torch.empty((outs, rows), dtype=torch.float32, device=bench.device)
        bench.launch(dot, (1,), w, x, y, K=width, BN=outs, R=rows, STEP=step, num_warps=outs // 16, num_stages=stages)
        return y[:16, :8].contiguous()

    _compare_tiles(bench, "dot", corner, CASES[:2] if bench.is_toy else CASES)


def _product_tiles(bench: Bench) -> None:
    """Of the kernel that multiplies with packed weights: whatever its table of tiles says, it is given others."""
    shape, num_rows = ((64, 256), 3) if bench.is_toy else (SHAPES[0], 128)
    x, matrix = bench.rows(num_rows, shape[1], seed=9).values, made_matrix(QuantType.Q4_K, shape, bench.device)
    configured = linear_module.linear_config

    def product(case: tuple[int, int, int]) -> torch.Tensor:
        outs, rows, stages = case
        linear_module.linear_config = lambda *_: LinearConfig(outs, rows, outs // 16, stages)
        try:
            return _linear(bench, x, matrix)
        finally:
            linear_module.linear_config = configured

    _compare_tiles(bench, "linear Q4_K", product, CONFIGS[:2] if bench.is_toy else CONFIGS)


def _compare_tiles(bench: Bench, name: str, out_of: Callable[[Any], torch.Tensor], cases: Sequence[Any]) -> None:
    """The first case is what others are compared with. A difference is no fault: it says what must not be mixed."""
    first, faults = out_of(cases[0]), []
    for case in cases[1:]:
        try:
            is_same = same_bits(out_of(case), first)
        except Exception as error:  # a tile that does not fit is no answer to the question
            bench.report("M1", f"{name}, tile {case}", skipped=type(error).__name__)
            continue
        if not is_same:
            faults.append(str(case))
    told = ", ".join(faults) or "none"
    bench.report("M1", f"{name}, tiles against {cases[0]}", differing=told, compared=len(cases) - 1)
