"""From one GGUF file to another of smaller types: plan, check the disk, write aside, rename.

Owns quantize_file() and its report. Must not know: terminals, mixes.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from stepahead.backends.cpu.threads import resolve_threads
from stepahead.errors import ConfigError
from stepahead.gguf import GGUFFile, TensorData, TypedValue, ValueType, write_gguf, write_split_gguf
from stepahead.gguf.destination import check_room, explaining_the_disk, left_over
from stepahead.gguf.progress import Progress, counting
from stepahead.quantize.importance import ImportanceMatrix
from stepahead.quantize.plan import Plan, PlannedTensor
from stepahead.quantize.stream import ErrorSums, TensorStream

QUANTIZATION_VERSION = 2
"""Of the blocks' layouts, as all GGUF files of today have it."""


@dataclass(frozen=True, slots=True, eq=False)
class TensorReport:
    """A tensor that was planned; sums None: nothing was written. Of a copy they are zeros."""

    planned: PlannedTensor
    sums: ErrorSums | None


@dataclass(frozen=True, slots=True, eq=False)
class QuantizationReport:
    plan: Plan
    files: tuple[Path, ...]
    nbytes: int
    seconds: float
    tensors: tuple[TensorReport, ...]
    left_over: tuple[Path, ...]  # of runs that were killed

    @property
    def unweighted(self) -> tuple[str, ...]:
        """Matrices that the importance matrix has nothing of."""
        if self.plan.request.importance is None:
            return ()
        return tuple(t.info.name for t in self.plan.tensors if not t.is_copied and t.squares is None)


def quantize_file(
    plan: Plan,
    output: Path,
    *,
    threads: int | None = None,
    max_shard_bytes: int | None = None,
    on_progress: Progress | None = None,
) -> QuantizationReport:
    """Write the file of `plan`; `output` is a file, or a folder in which it gets a name.

    threads: None for one a physical core. max_shard_bytes: into several files, <output>-00001-of-0000N.gguf.
    on_progress(bytes read, bytes in all). The file appears complete or not at all; memory is bounded.
    """
    path = target(output, plan)
    _refuse_own_input(path, plan.file)
    check_room(path, plan.nbytes, "give another folder, or a smaller type")
    abandoned = left_over(path, has_shards=True)
    started = time.perf_counter()
    num_threads = resolve_threads(threads)
    count = counting(sum(tensor.info.nbytes for tensor in plan.tensors), on_progress)
    sums = {tensor.info.name: ErrorSums() for tensor in plan.tensors}
    with explaining_the_disk(path, "write several: --split-size 4"), ThreadPoolExecutor(num_threads, "decode") as pool:
        tensors = {
            t.info.name: TensorData(
                t.type, t.info.shape, TensorStream(plan.file, t, sums[t.info.name], num_threads, pool, count)
            )
            for t in plan.tensors
        }
        files = _write(path, plan, tensors, max_shard_bytes)
    return QuantizationReport(
        plan=plan,
        files=tuple(files),
        nbytes=sum(file.stat().st_size for file in files),
        seconds=time.perf_counter() - started,
        tensors=tuple(TensorReport(tensor, sums[tensor.info.name]) for tensor in plan.tensors),
        left_over=abandoned,
    )


def target(output: Path, plan: Plan) -> Path:
    """The file to write: in a folder, under the model's name with the mix's in the place of its old type."""
    if output.is_dir():
        stem = plan.file.path.name.removesuffix(".gguf").split("-00001-of-")[0]
        for old in ("BF16", "bf16", "F16", "f16", "F32", "f32", "Q8_0"):
            stem = stem.removesuffix(f"-{old}")
        return output / f"{stem}-{plan.request.mix.name}.gguf"
    if output.suffix != ".gguf":
        raise ConfigError(f"{output}: the name of the file to write must end in .gguf, or be that of a folder")
    return output


def _write(path: Path, plan: Plan, tensors: dict[str, TensorData], max_shard_bytes: int | None) -> list[Path]:
    metadata, alignment = _metadata(plan), plan.file.alignment
    if max_shard_bytes is None:
        write_gguf(path, metadata, tensors, alignment=alignment)
        return [path]
    prefix = path.with_name(path.name.removesuffix(".gguf"))
    return write_split_gguf(prefix, metadata, tensors, max_shard_bytes=max_shard_bytes, alignment=alignment)


def _metadata(plan: Plan) -> dict[str, TypedValue]:
    """The old one, but for what it says of types and shards."""
    u32 = ValueType.U32
    pairs = {key: value for key, value in plan.file.typed_metadata().items() if not key.startswith("split.")}
    pairs["general.file_type"] = TypedValue(u32, plan.request.mix.file_type)
    pairs["general.quantization_version"] = TypedValue(u32, QUANTIZATION_VERSION)
    if plan.request.importance is not None:
        pairs |= _importance_keys(plan.request.importance)
    return pairs


def _importance_keys(importance: ImportanceMatrix) -> dict[str, TypedValue]:
    name = "" if importance.path is None else importance.path.name
    return {
        "quantize.imatrix.file": TypedValue(ValueType.STRING, name),
        "quantize.imatrix.dataset": TypedValue(ValueType.STRING, ", ".join(importance.datasets)),
        "quantize.imatrix.entries_count": TypedValue(ValueType.U32, len(importance.squares)),
        "quantize.imatrix.chunks_count": TypedValue(ValueType.U32, importance.num_chunks),
    }


def _refuse_own_input(path: Path, file: GGUFFile) -> None:
    stem = path.name.removesuffix(".gguf")
    for shard in file.shards:
        is_shard_of_it = shard.parent.resolve() == path.parent.resolve() and shard.name.startswith(f"{stem}-0")
        if is_shard_of_it or (path.exists() and path.samefile(shard)):
            raise ConfigError(f"{path}: is the file that is read; give another name to write")
