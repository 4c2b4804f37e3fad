"""M2: rows times quantised weights: how near to the memory's bandwidth, and what more rows cost."""

from benchmarks.cuda.bench import Bench
from benchmarks.cuda.byte_bounds import matrix_nbytes
from benchmarks.cuda.made_weights import made_matrix
from benchmarks.cuda.timing import Call
from stepahead.backends.cuda.formats.format import FORMATS
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.gguf import QuantType

TYPES = (QuantType.Q4_K, QuantType.Q6_K, QuantType.Q8_0)
SHAPES = ((14432, 4096), (4096, 12288), (16384, 8192))
"""(out, in): what a sliding layer's attention reads of a row, what it gives back, and one beyond every cache."""
ROWS = (1, 2, 3, 4, 8, 16)
FEW = 4
TOGETHER = (1024, 1024, 12288, 96)
"""Outputs of keys, values, queries and gates: the first of the shapes, in parts."""
LARGE_BYTES = 64 << 20
"""From here on there are targets."""


def measure(bench: Bench) -> None:
    shapes = ((64, 512),) if bench.is_toy else SHAPES
    for type in TYPES:
        for shape in shapes[::-1]:  # the large one first, should time run out
            if bench.has_time("M2", f"{type.name} {shape}"):
                _measure_type(bench, type, shape, ROWS[:4:3] if bench.is_toy else ROWS)
                bench.free_memory()
    if not bench.is_toy and bench.has_time("M2", "together"):
        _measure_together(bench)
        bench.free_memory()
    others = [type for type in FORMATS if type not in TYPES] + [QuantType.BF16, QuantType.F16, QuantType.F32]
    for type in others[:1] if bench.is_toy else others:
        if bench.has_time("M2", type.name):
            _attempt(bench, type, shapes[-1])
            bench.free_memory()


def _attempt(bench: Bench, type: QuantType, shape: tuple[int, int]) -> None:
    """Of a type that no target names: its fault is its own."""
    try:
        _measure_type(bench, type, shape, (1, 4))
    except Exception as error:
        bench.report("M2", f"{type.name} {shape}", error=f"{type(error).__name__}: {error}".splitlines()[0][:200])


def _measure_type(bench: Bench, type: QuantType, shape: tuple[int, int], rows: tuple[int, ...]) -> None:
    first = made_matrix(type, shape, bench.device)
    matrices = [first, *(made_matrix(type, shape, bench.device) for _ in range(bench.copies(first.nbytes) - 1))]
    times = bench.timer.seconds({str(count): _calls(bench, matrices, count) for count in rows})
    is_asked = type in TYPES and (first.nbytes >= LARGE_BYTES or bench.is_toy)
    for count in rows:
        seconds = times[str(count)]
        share = bench.share(first.nbytes, seconds)
        verdict = {"target": f"gemv {type.name}", "value": share} if is_asked and count <= FEW else {}
        bench.report(
            "M2", f"{type.name} {shape[0]} x {shape[1]}, {count} rows", us=1e6 * seconds,
            gb_s=first.nbytes / seconds / 1e9, share=share, **verdict,
        )  # fmt: skip
    if FEW in rows:
        ratio = times[str(FEW)] / times["1"]
        verdict = {"target": "gemv 4 to 1", "value": ratio} if is_asked else {}
        bench.report("M2", f"{type.name} {shape[0]} x {shape[1]}, 4 rows to 1", ratio=ratio, **verdict)


def _measure_together(bench: Bench) -> None:
    """What a sliding layer's attention multiplies its rows with, as the model asks for it."""
    shapes = [(out, SHAPES[0][1]) for out in TOGETHER]
    nbytes = sum(matrix_nbytes(QuantType.Q4_K, *shape) for shape in shapes)
    sets = [[made_matrix(QuantType.Q4_K, shape, bench.device) for shape in shapes] for _ in range(bench.copies(nbytes))]
    cases: dict[str, list[Call]] = {}
    for count in ROWS[:4:3]:
        x = bench.rows(count, SHAPES[0][1])
        cases[str(count)] = [lambda x=x, matrices=matrices: bench.backend.linear_many(x, matrices) for matrices in sets]
    for count, seconds in bench.timer.seconds(cases).items():
        case = f"Q4_K keys, values, queries, gates, {count} rows"
        bench.report("M2", case, us=1e6 * seconds, share=bench.share(nbytes, seconds))


def _calls(bench: Bench, matrices: list[CudaMatrix], num_rows: int) -> list[Call]:
    x = bench.rows(num_rows, matrices[0].shape[1])

    def call(matrix: CudaMatrix) -> Call:
        return lambda: bench.backend.linear(x, matrix).values

    return [call(matrix) for matrix in matrices]
