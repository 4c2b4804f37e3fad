"""Where a pass's microseconds go: python -m benchmarks.profile [MODEL] --rows 1 4, from the root of a checkout.

Every op of the backend is timed as the model calls it, grouped by the matrix that it reads; what is left between the
ops is Python. The clock itself costs some 0.3 microseconds an op.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.peers.ours import OurSide, batch_of
from benchmarks.peers.side import WARM_UPS, some_ids
from stepahead.backends.base import Backend
from stepahead.backends.cpu.threads import default_threads
from stepahead.demo import demo_path
from stepahead.engine.batch import ScheduledBatch
from stepahead.engine.request import Draft

WITH_MATRICES = {"linear", "linear_many", "moe_ffn"}
OPS = [name for name in vars(Backend) if not name.startswith("_") and callable(getattr(Backend, name))]


@dataclass(slots=True)
class Spent:
    calls: int = 0
    seconds: float = 0.0
    nbytes: int = 0  # of weights that were read


class TimedBackend:
    """Passes every op on, and keeps its time. What the calls were is worked out after the pass, by `sum_up`."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._calls: list[tuple[str, tuple[Any, ...], float]] = []
        self.spent: dict[str, Spent] = defaultdict(Spent)
        for name in OPS:
            setattr(self, name, self._timed(name, getattr(backend, name)))

    def sum_up(self) -> None:
        for name, operands, seconds in self._calls:
            label, nbytes = _label(name, operands)
            spent = self.spent[label]
            spent.calls, spent.seconds, spent.nbytes = spent.calls + 1, spent.seconds + seconds, spent.nbytes + nbytes
        self._calls.clear()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def _timed(self, name: str, op: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = op(*arguments)
            seconds = time.perf_counter() - start
            self._calls.append((name, arguments[1:] if name in WITH_MATRICES else (), seconds))
            return result

        return call


def _label(name: str, operands: tuple[Any, ...]) -> tuple[str, int]:
    """What a line of the table sums up, and the bytes of weights that the call reads."""
    if name == "linear":
        (matrix,) = operands
        return f"linear {matrix.type.name} {'x'.join(map(str, matrix.shape))}", matrix.nbytes
    if name == "linear_many":
        (many,) = operands
        return f"linear_many, {len(many)} matrices", sum(matrix.nbytes for matrix in many)
    if name == "moe_ffn":
        routing, *matrices = operands[:4]
        touched = len(np.unique(routing.ids()))
        return "moe_ffn", sum(matrix.nbytes // matrix.shape[0] * touched for matrix in matrices)
    return name, 0


class ProfiledSide(OurSide):
    """Passes behind a cached prefix, op by op."""

    def __init__(self, path: str, threads: int, context_length: int) -> None:
        super().__init__(path, threads, context_length)
        self._timed = TimedBackend(self._runner.backend)
        self._runner.backend = self._llm.model.backend = self._timed

    def profile(self, prefix: list[int], rows: list[int], seconds: float) -> tuple[dict[str, Spent], float, int]:
        """What each op took in all passes over `rows`, the seconds of the passes, and their number."""
        sequence = self._sequence([*prefix, rows[0]], depth=0)
        self._fill(sequence, None)
        batch = batch_of(sequence, Draft(tuple(rows[1:])))
        for _ in range(WARM_UPS):
            self._pass(batch)
        self._timed.sum_up()
        self._timed.spent.clear()
        total, passes = 0.0, 0
        while total < seconds:
            start = time.perf_counter()
            self._pass(batch)
            total, passes = total + time.perf_counter() - start, passes + 1
            self._timed.sum_up()
        self._runner.kv_cache.release(sequence.kv)
        return dict(self._timed.spent), total, passes

    def _pass(self, batch: ScheduledBatch) -> None:
        self._runner.host_logits(self._forward(batch)).argmax(axis=1)
        self._commit(batch, 0)


def table(spent: dict[str, Spent], total: float, passes: int) -> str:
    """A line an op, the dearest first; the last is what no op took."""
    lines = [f"{'op':34}{'calls':>7}{'us a pass':>12}{'share':>8}{'GB/s':>8}"]
    for name, part in sorted(spent.items(), key=lambda item: -item[1].seconds):
        rate = f"{part.nbytes / part.seconds / 1e9:8.1f}" if part.nbytes else ""
        lines.append(_line(name, f"{part.calls / passes:.0f}", part.seconds / passes, part.seconds / total) + rate)
    rest = total - sum(part.seconds for part in spent.values())
    lines += [_line("between the ops", "", rest / passes, rest / total), _line("in all", "", total / passes, 1.0)]
    return "\n".join(lines)


def _line(name: str, calls: str, seconds: float, share: float) -> str:
    return f"{name:34}{calls:>7}{1e6 * seconds:12.1f}{100 * share:7.1f}%"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("model", nargs="?", default=str(demo_path()), help="a GGUF file; default: the demo model")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--prefix", type=int, default=256, help="tokens before")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--seconds", type=float, default=2.0, help="for each number of rows")
    options = parser.parse_args()
    side = ProfiledSide(options.model, options.threads, options.prefix + 64)
    prefix = some_ids(side.vocab_size, options.prefix, seed=1)
    for count in options.rows:
        rows = some_ids(side.vocab_size, count, seed=2)
        sys.stdout.write(f"{count} rows\n{table(*side.profile(prefix, rows, options.seconds))}\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
