"""Measure the GPU backend on the GPU at hand: python -m benchmarks.cuda [PART ...] [--out FILE.json]

  M0  ceilings: copies, reads, the gap between kernels      M5  output matrix and choice of tokens
  M1  bits: rows beside others, and among many              M6  attention over 4 K and 32 K keys
  M2  products of few rows with quantised weights           M7  a prompt of 2,048 tokens
  M3  routed experts                                        M8  the demo model, beside the CPU
  M4  Step's layers with random weights: plain decoding and cycles of up to three heads, ahead of the host and not
  tiles  products in tiles of other sizes than the table of configurations has; only where it is named
  host   routed experts that the CPU computes, beside the shared one on the GPU; only where it is named

Every part runs alone, and always in this order. Records go to FILE a line each, as they come, and a table at the end:
--table FILE ... makes it again of what runs have written. --toy: the smallest shapes in Triton's interpreter, to know
that the script works before a GPU is there; it measures nothing.
"""

import argparse
import importlib
import os
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.cuda.report import Report, read
from benchmarks.cuda.targets import heading, table

PARTS: dict[str, tuple[str, float]] = {
    "M0": ("ceilings", 20),
    "M1": ("bits", 90),
    "M2": ("products", 95),
    "M3": ("experts", 35),
    "M4": ("steps", 220),
    "M5": ("choice", 15),
    "M6": ("attention", 25),
    "M7": ("prompt", 30),
    "M8": ("demo", 90),
    "tiles": ("tiles", 300),
    "host": ("host_experts", 40),
}
"""Module, and seconds after which no further case of it begins: ten minutes in all, without those of NAMED. Estimates,
for no part has run on a GPU yet: half of M4's and M8's is for compiling."""
NAMED = ("tiles", "host")
"""Measured only where it is asked for by name."""


def run(names: list[str], out: Path | None, is_toy: bool) -> Report:
    """A part that fails says so, and the others go on."""
    if is_toy:
        os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined: before any is imported
    from benchmarks.cuda.bench import Bench  # noqa: PLC0415

    report = Report(out, is_toy)
    try:
        bench = Bench(report, is_toy)
        facts = bench.backend.describe()
        report("start", "device", device=bench.name, **{name: facts[name] for name in ("isa", "torch", "triton")})
        for name in PARTS:
            if name in names:
                _run_part(bench, name)
    finally:
        report.close()
    return report


def _run_part(bench: Any, name: str) -> None:
    module, limit = PARTS[name]
    started, prepared = time.perf_counter(), bench.timer.preparing
    try:
        with bench.limited(limit):
            importlib.import_module(f"benchmarks.cuda.{module}").measure(bench)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        bench.report(name, "failed", error=told, at=f"{Path(where.filename).name}:{where.lineno}")
    seconds, preparing = time.perf_counter() - started, bench.timer.preparing - prepared
    bench.free_memory()
    bench.report(name, "done", seconds=round(seconds, 1), compiling_and_warming_up=round(preparing, 1))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{' '.join(PARTS)}; none: all of them")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where records go, a line of JSON each")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE.json", help="only the table of earlier runs")
    parser.add_argument("--toy", action="store_true", help="smallest shapes, in the interpreter")
    given = parser.parse_args(arguments)
    if given.table is not None:
        records = [record for path in given.table for record in read(path)]
        print(f"{heading(records)}\n\n{table(records)}")
        return 0
    names = given.parts or [name for name in PARTS if name not in NAMED]
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; give some of {', '.join(PARTS)}")
    report = run(names, given.out, given.toy)
    print(f"\n{report.summary()}")
    return 1 if any("error" in record for record in report.records) else 0


if __name__ == "__main__":
    raise SystemExit(main())
