"""Writes a repaired file: the header and what a repair changes are new, all other bytes are copied."""

import shutil
from collections.abc import Callable
from pathlib import Path

from stepahead.errors import CapacityError, ConfigError
from stepahead.gguf import GGUFFile, TensorData, write_gguf
from stepahead.gguf.block_quants import Bytes

OnProgress = Callable[[int, int], None]
"""Called with (done, total) bytes."""


def check_place(file: GGUFFile, out: Path, other: GGUFFile | None = None) -> None:
    """Raises ConfigError where `out` is the file itself, or the other one of a pair: neither is ever written over;
    CapacityError without room for a copy."""
    inputs = (*file.shards, *(other.shards if other is not None else ()))
    if any(out.exists() and out.samefile(path) for path in inputs):
        raise ConfigError(f"{out}: is the file that is to be repaired, or belongs to it; give another name")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: no such folder {out.parent}; create it first")
    needed, free = sum(info.nbytes for info in file.tensors.values()), shutil.disk_usage(out.parent).free
    if needed > free:
        raise CapacityError(f"{out}: needs {needed / 1e9:.1f} GB, but {free / 1e9:.1f} are free; give another disk")


def write_fixed(view: GGUFFile, out: Path, on_progress: OnProgress) -> None:
    """One file, whatever number of shards it was; there as a whole or not at all. Raises as check_place and OSError."""
    check_place(view, out)
    metadata = {key: value for key, value in view.typed_metadata().items() if not key.startswith("split.")}
    total = sum(info.nbytes for info in view.tensors.values())
    done, before = 0, ""

    def read(name: str) -> Bytes:
        nonlocal done, before
        if before:  # its pages are written
            view.release(before, 0, view.tensors[before].nbytes)
        on_progress(done, total)
        done, before = done + view.tensors[name].nbytes, name
        return view.data(name)

    def source(name: str) -> TensorData:
        info = view.tensors[name]
        return TensorData(info.type, info.shape, lambda: read(name))

    tensors = {name: source(name) for name in view.tensors}
    write_gguf(out, metadata, tensors, alignment=view.alignment, version=view.version)
    on_progress(total, total)
