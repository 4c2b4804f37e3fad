"""Time the ops of the CPU backend: python benchmarks/ops/run.py --op linear

Prints milliseconds (the least of several rounds) and GB/s of what must be read or written, for 1, 2, 4 and 8 rows.
A figure is printed only if the result has the bits of the scalar kernels on one thread.
"""

import argparse
import time

import cases
import numpy as np

from stepahead.backends.cpu.ops import CpuBackend

CHECK_MIB = 2
"""Size of the matrix whose bits are compared: the scalar kernels are slow, and output rows do not know each other."""


def has_scalar_bits(op: str, variant: str, backend: CpuBackend, rows: int) -> bool:
    scalar = CpuBackend(threads=1, isa="scalar")
    results = [cases.make(op, variant, b, rows, CHECK_MIB).result() for b in (backend, scalar)]
    return results[0].tobytes() == results[1].tobytes()


def milliseconds(case: cases.Case, seconds: float) -> float:
    """The least of the rounds that fit into `seconds`, at least five."""
    best, spent, rounds = np.inf, 0.0, 0
    while rounds < 5 or spent < seconds:
        start = time.perf_counter()
        case.run()
        elapsed = time.perf_counter() - start
        best, spent, rounds = min(best, elapsed), spent + elapsed, rounds + 1
    return best * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", choices=cases.OPS, nargs="+", default=cases.OPS, metavar="OP", help=" ".join(cases.OPS))
    parser.add_argument("--types", nargs="+", help="only these variants, such as Q4_K or f16")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--isa")
    parser.add_argument("--mib", type=int, default=128, help="size of the matrix of `linear`, beyond any cache")
    parser.add_argument("--seconds", type=float, default=0.3, help="time spent on each figure")
    arguments = parser.parse_args()
    backend = CpuBackend(threads=arguments.threads, isa=arguments.isa)
    print(backend.describe())
    print(f"{'op':12} {'type':6}" + "".join(f"{f'{rows} rows':>20}" for rows in arguments.rows))
    for op in arguments.op:
        for variant in cases.variants(op):
            if arguments.types and variant not in arguments.types:
                continue
            figures = []
            for rows in arguments.rows:
                if not has_scalar_bits(op, variant, backend, rows):
                    raise SystemExit(f"{op} {variant}, {rows} rows: other bits than scalar; no figures")
                case = cases.make(op, variant, backend, rows, arguments.mib)
                ms = milliseconds(case, arguments.seconds)
                figures.append(f"{ms:9.3f} ms {case.nbytes / ms / 1e6:5.1f} GB/s")
            print(f"{op:12} {variant:6}" + "".join(f"{figure:>22}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
