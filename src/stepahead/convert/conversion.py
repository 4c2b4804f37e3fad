"""From a folder of the hub to a GGUF file: plan, check the disk, write aside, rename.

Owns convert() and its report. Must not know: terminals.
"""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stepahead.backends.cpu.threads import resolve_threads
from stepahead.convert.checkpoint import Checkpoint
from stepahead.convert.file_metadata import file_metadata, model_name
from stepahead.convert.hub_config import HubConfig
from stepahead.convert.plan import Part, Plan, make_plan
from stepahead.convert.rope_factors import NAME as ROPE_NAME
from stepahead.convert.rope_factors import rope_factors
from stepahead.convert.stream import pieces
from stepahead.convert.tokenizer_metadata import tokenizer_metadata
from stepahead.errors import ConfigError
from stepahead.gguf import QuantType, TensorData, write_gguf, write_split_gguf
from stepahead.gguf.destination import check_room, explaining_the_disk, left_over
from stepahead.gguf.progress import OnBytes, Progress, counting

TYPES = {name: QuantType[name] for name in ("F32", "F16", "BF16", "Q8_0")}
MAX_WORKERS = 8  # more do not help: somebody has to read and to write


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What was written, and what of it a reader may want to know."""

    files: tuple[Path, ...]
    type: str
    nbytes: int
    seconds: float
    num_tensors: int
    num_trunk_layers: int
    num_heads: int
    has_trunk: bool
    num_vision_skipped: int
    num_shards: int
    num_shards_opened: int
    fallbacks: tuple[str, ...]  # tensors in F16, because their rows are no whole blocks
    left_over: tuple[Path, ...]  # of runs that were killed


def convert(
    folder: Path,
    output: Path,
    *,
    type: str = "BF16",
    part: Part = "all",
    pre: str | None = None,
    max_shard_bytes: int | None = None,
    on_progress: Progress | None = None,
) -> ConversionReport:
    """Write the checkpoint in `folder` as GGUF; `output` is a file, or a folder in which it gets a name.

    part: everything, the heads with what they share (a companion file), or the trunk. max_shard_bytes: into several
    files, <output>-00001-of-0000N.gguf. on_progress(bytes done, bytes in all).
    The file appears complete or not at all. Memory is bounded, however large the checkpoint.
    """
    if type not in TYPES:
        raise ConfigError(f"type {type} is not one of {', '.join(TYPES)}; others are made with stepahead quantize")
    wanted = TYPES[type]
    start = time.perf_counter()
    with Checkpoint.open(folder) as checkpoint:
        config = HubConfig.from_folder(folder)
        plan = make_plan(checkpoint, config, wanted, part)
        path = _target(output, folder, type, part)
        metadata = file_metadata(config, plan, wanted) | tokenizer_metadata(
            folder, plan.vocab_size, config.eos_ids, config.bos_id, config.pad_id, pre
        )
        check_room(path, plan.nbytes, "give another folder, or a smaller --type")
        abandoned = left_over(path, has_shards=True)
        with explaining_the_disk(path, "write several: --split-size 4"), _pool() as (pool, depth):
            tensors = _tensors(plan, config, pool, depth, counting(plan.nbytes, on_progress))
            if max_shard_bytes is None:
                write_gguf(path, metadata, tensors)
                files = [path]
            else:
                prefix = path.with_name(path.name.removesuffix(".gguf"))
                files = write_split_gguf(prefix, metadata, tensors, max_shard_bytes=max_shard_bytes)
        return ConversionReport(
            files=tuple(files),
            type=type,
            nbytes=sum(file.stat().st_size for file in files),
            seconds=time.perf_counter() - start,
            num_tensors=len(tensors),
            num_trunk_layers=config.num_trunk,
            num_heads=plan.num_heads,
            has_trunk=part != "heads",
            num_vision_skipped=plan.num_vision,
            num_shards=checkpoint.num_files,
            num_shards_opened=checkpoint.num_opened,
            fallbacks=plan.fallbacks,
            left_over=abandoned,
        )


def _target(output: Path, folder: Path, type: str, part: Part) -> Path:
    if output.is_dir():
        return output / f"{'mtp-' if part == 'heads' else ''}{model_name(folder)}-{type}.gguf"
    if output.suffix != ".gguf":
        raise ConfigError(f"{output}: the name of the file to write must end in .gguf, or be that of a folder")
    return output


def _tensors(
    plan: Plan, config: HubConfig, pool: ThreadPoolExecutor, depth: int, on_bytes: OnBytes
) -> dict[str, TensorData]:
    tensors = {
        tensor.name: TensorData(tensor.type, tensor.shape, partial(pieces, tensor, pool, depth, on_bytes))
        for tensor in plan.tensors
    }
    factors = rope_factors(config)
    if factors is not None:
        tensors[ROPE_NAME] = TensorData.from_array(factors)
    return tensors


@contextlib.contextmanager
def _pool() -> Iterator[tuple[ThreadPoolExecutor, int]]:
    """Threads that turn numbers, and how many pieces may be on their way. All they do lets go of the interpreter."""
    workers = min(MAX_WORKERS, resolve_threads(None))
    pool = ThreadPoolExecutor(workers, "convert")
    try:
        yield pool, 2 * workers
    finally:
        pool.shutdown(cancel_futures=True)
