"""M5: the output matrix, and the choice of a token from its logits."""

import numpy as np

from benchmarks.cuda.bench import Bench
from benchmarks.cuda.made_weights import made_matrix
from benchmarks.cuda.timing import Call
from stepahead.backends.base import SampleRows
from stepahead.gguf import QuantType

VOCAB, HIDDEN = 128896, 4096
ROWS = (1, 4)
SETTINGS = {
    "greedy": (0.0, 0, 1.0, 0.0),
    "temperature 0.8": (0.8, 0, 1.0, 0.0),
    "top-k 40, top-p 0.9": (0.8, 40, 0.9, 0.0),
}
"""Temperature, top_k, top_p, min_p."""


def measure(bench: Bench) -> None:
    vocab, hidden = (512, 256) if bench.is_toy else (VOCAB, HIDDEN)
    for type in (QuantType.Q6_K,) if bench.is_toy else (QuantType.Q6_K, QuantType.Q4_K):
        matrix = made_matrix(type, (vocab, hidden), bench.device)
        cases = {str(count): [_product(bench, count, matrix)] for count in ROWS[: 1 if bench.is_toy else None]}
        for count, seconds in bench.timer.seconds(cases).items():
            share = bench.share(matrix.nbytes, seconds)
            bench.report("M5", f"output {type.name}, {count} rows", us=1e6 * seconds, share=share)
    for count in ROWS[: 1 if bench.is_toy else None]:
        logits = bench.rows(count, vocab, seed=8)
        bench.backend.begin_step()
        calls: dict[str, list[Call]] = {}
        for name, setting in list(SETTINGS.items())[: 1 if bench.is_toy else None]:
            rows = _sample_rows(count, *setting)
            calls[name] = [lambda logits=logits, rows=rows: bench.backend.sample(logits, rows, None)]
        for name, seconds in bench.timer.seconds(calls).items():
            bench.report("M5", f"choice, {name}, {count} rows", us=1e6 * seconds)


def _product(bench: Bench, num_rows: int, matrix: object) -> Call:
    x = bench.rows(num_rows, matrix.shape[1])  # type: ignore[attr-defined]
    return lambda: bench.backend.linear(x, matrix)  # type: ignore[arg-type]


def _sample_rows(count: int, temperature: float, top_k: int, top_p: float, min_p: float) -> SampleRows:
    return SampleRows(
        seeds=np.arange(count, dtype=np.uint64),
        positions=np.arange(count, dtype=np.int64),
        temperatures=np.full(count, temperature),
        top_k=np.full(count, top_k, np.int32),
        top_p=np.full(count, top_p),
        min_p=np.full(count, min_p),
        is_plain=np.ones(count, np.bool_),
    )
