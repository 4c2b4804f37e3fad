"""One large matrix a type, 1 to 16 rows, beside ggml: python -m benchmarks.peers.matrices, from the root of a checkout.

Every side of a type holds a copy beyond any cache and computes the same product in turns, in another order each round:
ours on the file's layout and on interleaved panels, ggml's on the file's layout and on that of its faster kernels,
where it has one. Ratios are taken within a round, against the faster setting of each.
"""

import argparse
import hashlib
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.ops.weights import random_weights
from benchmarks.peers import ggml, llama
from stepahead import _native
from stepahead.backends.cpu.ops import CpuBackend
from stepahead.backends.cpu.threads import default_threads
from stepahead.diagnosis.bandwidth import READ_BYTES, ReadBandwidth
from stepahead.gguf import QuantType

WIDTH = 4096
PLAIN, PANELS, GGML, GGML_REPACKED = "plain", "interleaved", "ggml", "ggml repacked"
OURS, THEIRS = (PLAIN, PANELS), (GGML, GGML_REPACKED)
PASSES = 3  # of a sample, which is the least: memory is shared with whatever else this machine does
CLOSE = 0.02  # largest difference beside the largest output: both sides round activations, each in its own way
EXIT_DISAGREEMENT = 1


@dataclass(frozen=True, slots=True)
class Cell:
    """One type, one number of rows."""

    type: str
    rows: int
    nbytes: int
    bandwidth: float  # bytes a second that the same threads read, median over the rounds
    seconds: dict[str, list[float]]  # by side, one a round

    def best(self, sides: tuple[str, ...]) -> str | None:
        return min(
            (s for s in sides if s in self.seconds), key=lambda s: statistics.median(self.seconds[s]), default=None
        )

    def median_ms(self, side: str) -> float:
        return 1e3 * statistics.median(self.seconds[side])

    def ratio(self, of: str | None, to: str | None) -> float | None:
        """Median over the rounds of seconds `of` over seconds `to`."""
        if of is None or to is None:
            return None
        return statistics.median(a / b for a, b in zip(self.seconds[of], self.seconds[to], strict=True))

    @property
    def floor_ms(self) -> float:
        return 1e3 * self.nbytes / self.bandwidth


class Bench:
    """All sides of one type."""

    def __init__(self, type: QuantType, nbytes: int, rows: list[int], threads: int, isa: str | None) -> None:
        num_out = max(nbytes // type.row_bytes(WIDTH) // 16, 1) * 16
        rng = np.random.default_rng(1)
        weights = random_weights(rng, type, (num_out, WIDTH))
        self.type, self.rows, self.nbytes, self._weights = type, rows, weights.nbytes, weights
        self._x = {n: rng.standard_normal((n, WIDTH), np.float32) for n in rows}
        self._passes: dict[str, Callable[[int], np.ndarray | None]] = {}
        self._add_ours(threads, isa)
        self._products = [self._add_ggml(name, threads) for name in THEIRS] if llama.why_missing() is None else []

    def _add_ours(self, threads: int, isa: str | None) -> None:
        backend = CpuBackend(threads=threads, isa=isa)
        context, shape = backend._context, (self._weights.shape[0], WIDTH)
        inputs = {n: backend.upload(x) for n, x in self._x.items()}
        plain = _native.Matrix(self._weights.reshape(-1), self.type.id, shape)
        self._passes[PLAIN] = lambda n: context.linear(inputs[n], plain).numpy()
        if self.type.block_size > 1:
            panels = np.empty(self._weights.size, np.uint8)
            context.interleave(plain, panels)
            matrix = _native.Matrix(panels, self.type.id, shape, interleaved=True)
            self._passes[PANELS] = lambda n: context.linear(inputs[n], matrix).numpy()

    def _add_ggml(self, name: str, threads: int) -> ggml.Product:
        product = ggml.Product(self.type, self._weights, WIDTH, threads, repack=name == GGML_REPACKED)
        for x in self._x.values():
            product.prepare(x)
        if product.is_repacked or name == GGML:
            self._passes[name] = product.run
        return product

    def disagreement(self) -> tuple[float, str]:
        """The largest difference of any side from ours beside the largest output, and the hash of our bits."""
        n = max(self.rows)
        ours = self._passes[PLAIN](n).copy()
        digest = hashlib.sha256(ours.tobytes()).hexdigest()[:12]
        if PANELS in self._passes and self._passes[PANELS](n).tobytes() != ours.tobytes():
            return float("inf"), digest
        worst = 0.0
        for name, product in zip(THEIRS, self._products, strict=False):
            if name in self._passes:
                product.run(n)
                worst = max(worst, float(np.abs(product.result(n) - ours).max() / np.abs(ours).max()))
        return worst, digest

    def measure(self, rounds: int, bandwidth: ReadBandwidth) -> list[Cell]:
        seconds: dict[int, dict[str, list[float]]] = {n: {name: [] for name in self._passes} for n in self.rows}
        speeds = []
        for number in range(rounds + 1):  # the first warms up
            speeds.append(bandwidth.measure())
            turns = [(n, name) for n in self.rows for name in self._passes]
            random.Random(number).shuffle(turns)
            for n, name in turns:
                seconds[n][name].append(min(self._seconds(name, n) for _ in range(PASSES)))
        speed = statistics.median(speeds[1:])
        kept = {n: {name: values[1:] for name, values in sides.items()} for n, sides in seconds.items()}
        return [Cell(self.type.name, n, self.nbytes, speed, kept[n]) for n in self.rows]

    def _seconds(self, name: str, rows: int) -> float:
        start = time.perf_counter()
        self._passes[name](rows)
        return time.perf_counter() - start

    def close(self) -> None:
        for product in self._products:
            product.close()


def table(cells: list[Cell]) -> str:
    """One line a cell; ours over our own one row; ggml's better setting over our better one."""
    sides = [s for s in (*OURS, *THEIRS) if any(s in cell.seconds for cell in cells)]
    head = ["type", "rows", "floor ms", *(f"{s} ms" for s in sides), "/ 1 row", "of bandwidth", "times as fast as ggml"]
    lines = [head]
    for cell in cells:
        best, one = cell.best(OURS), next(c for c in cells if c.type == cell.type)
        assert best is not None
        ratio = cell.ratio(cell.best(THEIRS), best)
        one_best = one.best(OURS)
        assert one_best is not None
        lines.append([
            cell.type, str(cell.rows), f"{cell.floor_ms:.1f}",
            *(f"{cell.median_ms(s):.1f}" if s in cell.seconds else "–" for s in sides),
            f"{cell.median_ms(best) / one.median_ms(one_best):.2f}",
            f"{cell.floor_ms / cell.median_ms(best):.2f}", "–" if ratio is None else f"{ratio:.2f}",
        ])  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in lines)


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    cells: list[Cell] = []
    bandwidth = ReadBandwidth(options.threads, READ_BYTES)
    doubtful = []
    for name in options.types:
        bench = Bench(QuantType[name], options.megabytes << 20, sorted(options.rows), options.threads, options.isa)
        difference, digest = bench.disagreement()
        cells += bench.measure(options.rounds, bandwidth)
        bench.close()
        sys.stderr.write(f"{name}: differs from ggml by {difference:.1e}, bits {digest}\n")
        if difference > CLOSE:
            doubtful.append(name)
    bandwidth.close()
    threads = f"{options.threads} threads, {options.megabytes} MiB a matrix, K = {WIDTH}"
    sys.stdout.write(f"{threads}, {cells[0].bandwidth / 1e9:.1f} GB/s read\n\n{table(cells)}\n")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(cell) for cell in cells], indent=1) + "\n", encoding="utf-8")
    if doubtful:
        sys.stderr.write(f"not the numbers of ggml: {', '.join(doubtful)}\n")
        return EXIT_DISAGREEMENT
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    types = [t.name for t in QuantType if t.id in _native.NATIVE_TYPES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.matrices", description=__doc__)
    parser.add_argument("--types", nargs="+", choices=types, default=types, metavar="TYPE", help=", ".join(types))
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 3, 4, 5, 8, 16], help="of activations")
    parser.add_argument("--megabytes", type=int, default=256, help="a matrix; default: 256")
    parser.add_argument("--threads", type=int, default=default_threads(), help="of every side; default: the cores")
    parser.add_argument("--rounds", type=int, default=7, help="that count; one more warms up; default: 7")
    parser.add_argument("--isa", help="of ours; default: the best")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every sample there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
