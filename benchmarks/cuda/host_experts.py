"""host: routed experts of one layer in the host's memory, beside the shared expert on the GPU: what overlaps.

hidden_us is what they take one after the other less what they take together; replayed_us what they take together in a
recording, graphs with the host's turn in between; gb_s what the CPU reads of its experts.
"""

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import torch

from benchmarks.cuda.bench import Bench
from benchmarks.cuda.byte_bounds import distinct_experts
from benchmarks.cuda.made_weights import made_matrix
from stepahead.backends.base import ON_HOST, PLAIN, Bytes, SharedExpert
from stepahead.backends.cuda.replay import new_recorder
from stepahead.backends.cuda.routing import Routing
from stepahead.backends.cuda.rows import Rows
from stepahead.gguf import QuantType

NUM_EXPERTS, TOP_K, WIDTH, HIDDEN = 288, 8, 1280, 4096
ROWS = (1, 4, 16)
NUM_ROUTINGS = 16
"""That take turns, so that no cache holds what is read next."""
TYPE = QuantType.Q4_K
D = 2e-4  # of a block, and its dmin: weights of about 0.02


def measure(bench: Bench) -> None:
    experts, top_k, width, hidden = (8, 2, 256, 256) if bench.is_toy else (NUM_EXPERTS, TOP_K, WIDTH, HIDDEN)
    shapes = ((experts, width, hidden), (experts, width, hidden), (experts, hidden, width))
    backend = bench.backend
    data = [_made_bytes(shape, seed) for seed, shape in enumerate(shapes)]
    matrices = [
        backend.load_matrix(each, TYPE, shape, ON_HOST + PLAIN) for each, shape in zip(data, shapes, strict=True)
    ]
    shared = SharedExpert(*(made_matrix(TYPE, shape[1:], bench.device) for shape in shapes), 0.0)
    nbytes = sum(matrix.nbytes for matrix in matrices) / experts
    for count in ROWS[:1] if bench.is_toy else ROWS:
        if not bench.has_time("host", f"{count} rows"):
            return
        x = bench.rows(count, hidden)
        routings = [_routing(bench, count, experts, top_k, seed) for seed in range(1 if bench.is_toy else NUM_ROUTINGS)]

        def routed(routing: Routing, x: Rows = x) -> object:
            return backend.moe_ffn(x, routing, *matrices, 0.0).values

        def both(routing: Routing, x: Rows = x) -> object:
            return backend.moe_ffn(x, routing, *matrices, 0.0, shared).values

        def shared_alone(_: Routing, x: Rows = x) -> object:
            gate, up = backend.linear_many(x, (shared.gate, shared.up))
            return backend.linear(backend.swiglu(gate, up, 0.0), shared.down).values

        on_host, on_gpu, together = (_seconds(bench, call, routings) for call in (routed, shared_alone, both))
        replayed = _replayed_seconds(bench, both, routings)
        bench.report(
            "host", f"{count} rows", routed_us=1e6 * on_host, shared_us=1e6 * on_gpu, together_us=1e6 * together,
            replayed_us=1e6 * replayed, hidden_us=1e6 * (on_host + on_gpu - together),
            gb_s=distinct_experts(experts, top_k, count) * nbytes / on_host / 1e9,
        )  # fmt: skip


def _seconds(bench: Bench, call: Callable[[Routing], object], routings: list[Routing]) -> float:
    """Launches, copies and waits included; the median of the routings."""
    found = []
    for each in [partial(call, routings[0]), *(partial(call, routing) for routing in routings)]:
        started = time.perf_counter()
        each()
        if not bench.is_toy:
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return median(found[1:])  # the first compiles


def _replayed_seconds(bench: Bench, call: Callable[[Routing], object], routings: list[Routing]) -> float:
    """Of `call` recorded, with the copies that tell the recording which routing it is."""
    backend, first = bench.backend, routings[0]
    told = Routing(first.ids.clone(), first.weights.clone(), *first.shape)
    with backend.host_experts.replaying(first.num_rows):
        recording, _ = new_recorder(backend.device, bench.launch).record(partial(call, told), family=None)

        def replay(routing: Routing) -> None:
            told.ids.copy_(routing.ids)
            told.weights.copy_(routing.weights)
            recording.replay()

        return _seconds(bench, replay, routings)


def _made_bytes(shape: tuple[int, ...], seed: int) -> Bytes:
    """Random codes and scales, and d and dmin that keep rows finite."""
    data = np.random.default_rng(seed).integers(0, 256, TYPE.nbytes(shape), np.uint8)
    data.reshape(-1, TYPE.block_bytes)[:, :4] = np.array([D, D], np.float16).view(np.uint8)
    return data


def _routing(bench: Bench, rows: int, experts: int, top_k: int, seed: int) -> Routing:
    logits = np.random.default_rng(seed).standard_normal((rows, experts), np.float32)
    bench.backend.begin_step()
    return bench.backend.moe_route(Rows(torch.from_numpy(logits).to(bench.device)), None, top_k, True, 3.0)
