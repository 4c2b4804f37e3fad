"""M3: the routed feed-forward of one layer: rows that choose at random, and neighbours that share a third."""

import numpy as np
import torch

from benchmarks.cuda.bench import Bench
from benchmarks.cuda.byte_bounds import distinct_experts
from benchmarks.cuda.made_weights import made_matrix
from benchmarks.cuda.sliding import SlidingSet
from benchmarks.cuda.timing import Call
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.routing import Routing
from stepahead.backends.cuda.rows import Rows
from stepahead.gguf import QuantType

NUM_EXPERTS, TOP_K, WIDTH, HIDDEN = 288, 8, 1280, 4096
ROWS = (1, 2, 3, 4, 8)
FEW = 4
NUM_ROUTINGS = 16
"""That take turns: one reads 73 MB and more, and what it has left in a cache is gone when it comes again."""


def measure(bench: Bench) -> None:
    experts, top_k, width, hidden = (8, 2, 64, 256) if bench.is_toy else (NUM_EXPERTS, TOP_K, WIDTH, HIDDEN)
    shapes = ((experts, width, hidden), (experts, width, hidden), (experts, hidden, width))
    matrices = [made_matrix(QuantType.Q4_K, shape, bench.device) for shape in shapes]
    expert_nbytes = sum(matrix.nbytes for matrix in matrices) / experts
    sliding = SlidingSet.of(experts, top_k)
    for is_shared in (True,) if bench.is_toy else (False, True):
        cases: dict[str, list[Call]] = {}
        counts: dict[str, float] = {}
        for rows in ROWS[3:4] if bench.is_toy else ROWS:
            routings = [_routing(bench, rows, experts, top_k, sliding if is_shared else None, seed)
                        for seed in range(1 if bench.is_toy else NUM_ROUTINGS)]  # fmt: skip
            counts[str(rows)] = float(np.mean([_num_distinct(routing) for routing in routings]))
            cases[str(rows)] = _calls(bench, bench.rows(rows, hidden), routings, matrices)
        if not bench.has_time("M3", "shared" if is_shared else "random"):
            return
        times = bench.timer.seconds(cases)
        for name, seconds in times.items():
            _report(bench, int(name), is_shared, counts[name], counts[name] * expert_nbytes, seconds)


def _report(bench: Bench, rows: int, is_shared: bool, count: float, nbytes: float, seconds: float) -> None:
    share = bench.share(nbytes, seconds)
    bench.report(
        "M3", f"{rows} rows, {'a third shared' if is_shared else 'random'}", us=1e6 * seconds, experts=count,
        expected_at_random=distinct_experts(NUM_EXPERTS, TOP_K, rows), gb_s=nbytes / seconds / 1e9, share=share,
        **({"target": "experts", "value": share} if rows <= FEW else {}),
    )  # fmt: skip


def _routing(bench: Bench, rows: int, experts: int, top_k: int, sliding: SlidingSet | None, seed: int) -> Routing:
    logits = np.random.default_rng(seed).standard_normal((rows, experts), np.float32)
    if sliding is not None:
        logits += sliding.table(seed * 7 + rows)[-rows:]
    bench.backend.begin_step()
    values = Rows(torch.from_numpy(logits).to(bench.device))
    return bench.backend.moe_route(values, None, top_k, True, 3.0)


def _num_distinct(routing: Routing) -> int:
    ids = routing.ids.cpu().numpy()[: routing.num_rows]
    return len(np.unique(ids[ids >= 0]))


def _calls(bench: Bench, x: Rows, routings: list[Routing], matrices: list[CudaMatrix]) -> list[Call]:
    def call(routing: Routing) -> Call:
        return lambda: bench.backend.moe_ffn(x, routing, *matrices, 0.0).values

    return [call(routing) for routing in routings]
