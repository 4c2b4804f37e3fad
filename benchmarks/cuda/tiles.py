"""Products of few rows in tiles of several sizes, for whoever writes the table of configurations. Never at run time."""

from benchmarks.cuda.bench import Bench
from benchmarks.cuda.made_weights import made_matrix
from benchmarks.cuda.products import SHAPES, TYPES
from benchmarks.cuda.timing import Call
from stepahead.backends.cuda.configs import FEW_ROWS, LinearConfig
from stepahead.backends.cuda.kernels import linear as linear_module
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.gguf import QuantType

OUTS = (64, 32, 128, 16)
STAGES = (1, 2, 3, 4)
ROWS = 4


def measure(bench: Bench) -> None:
    for shape in ((64, 512),) if bench.is_toy else SHAPES[::-1]:
        for type in TYPES[: 1 if bench.is_toy else None]:
            if bench.has_time("tiles", f"{type.name} {shape}"):
                _measure_shape(bench, type, shape)
                bench.free_memory()


def _measure_shape(bench: Bench, type: QuantType, shape: tuple[int, int]) -> None:
    first = made_matrix(type, shape, bench.device)
    matrices = [first, *(made_matrix(type, shape, bench.device) for _ in range(bench.copies(first.nbytes) - 1))]
    x = bench.rows(ROWS, shape[1])
    for outs in OUTS[: 1 if bench.is_toy else None]:
        for stages in STAGES[: 1 if bench.is_toy else None]:
            config = LinearConfig(outs, FEW_ROWS, outs // 16, stages)
            case = f"{type.name} {shape[0]} x {shape[1]}, {outs} outputs, {stages} stages"
            calls = [_call(bench, x, matrix, config) for matrix in matrices]
            try:
                seconds = bench.timer.seconds({"it": calls})["it"]
            except Exception as error:  # a tile that does not fit
                bench.report("tiles", case, skipped=type_name(error))
                continue
            bench.report("tiles", case, us=1e6 * seconds, share=bench.share(first.nbytes, seconds))


def _call(bench: Bench, x: object, matrix: CudaMatrix, config: LinearConfig) -> Call:
    def call() -> None:
        configured = linear_module.linear_config
        linear_module.linear_config = lambda *_: config
        try:
            bench.backend.linear(x, matrix).values  # type: ignore[arg-type]  # noqa: B018 - launched when read
        finally:
            linear_module.linear_config = configured

    return call


def type_name(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:120]
