"""A file that is made of ranges of others: where it may be written, whether it fits, and what became of it.

Must not know: heads, trunks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepahead.errors import ConfigError
from stepahead.gguf import FileRange, GGUFFile, TensorData, write_gguf
from stepahead.gguf.destination import check_room, explaining_the_disk
from stepahead.gguf.file_range import OnBytes, can_share
from stepahead.gguf.writer import runs
from stepahead.hub_folder import check_output

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Output:
    """A file to write, most of it from the file `main`: the longest run of bytes from there may be shared with it.

    model: its metadata, version and alignment.      tensors: ranges of files, and a few that are made.
    """

    path: Path
    model: GGUFFile
    tensors: Mapping[str, TensorData]
    main: GGUFFile

    @property
    def nbytes(self) -> int:
        return sum(data.type.nbytes(data.shape) for data in self.tensors.values())

    def shared_run(self) -> tuple[str, FileRange] | None:
        """Its first tensor, and all of it; None where nothing is as it is there."""
        found: list[tuple[str, FileRange]] = []
        for name, run in runs(self.tensors, self.model.alignment):
            if isinstance(run, FileRange) and run.path in self.main.shards:
                found.append((name, run))
        return max(found, key=lambda one: one[1].nbytes, default=None)

    def needed_bytes(self) -> int:
        """Room on the disk for its tensors, less what is shared if this file system can."""
        found = self.shared_run()
        shared = found[1].nbytes if found is not None and can_share(found[1].path, self.path.parent) else 0
        return self.nbytes - shared


def check_target(path: Path, inputs: Sequence[GGUFFile]) -> None:
    """ConfigError: no name for a model file, one of the files that it is made of, or a place in the hub's cache."""
    if path.suffix != ".gguf" or _is_folder(path):
        raise ConfigError(f"{path}: is no name for a model file; give one that ends in .gguf")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: no such folder {path.parent}; create it first")
    check_output(path, *(shard for file in inputs for shard in file.shards))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # too long a name, for one
        raise ConfigError(f"{path}: is no name for a model file: {error.strerror}; give another one") from None


def write(outputs: Sequence[Output], on_progress: Progress | None) -> list[int]:
    """Write the files, each complete or not at all; of each, how many of its bytes are shared."""
    _check_room(outputs)
    total, done = sum(output.nbytes for output in outputs), 0
    shared = [0] * len(outputs)
    for index, output in enumerate(outputs):

        def count(nbytes: int, is_shared: bool, index: int = index) -> None:
            nonlocal done
            done += nbytes
            shared[index] += nbytes if is_shared else 0
            if on_progress is not None:
                on_progress(min(done, total), total)

        model, run = output.model, output.shared_run()
        with explaining_the_disk(output.path, "give a folder of another one"):
            write_gguf(
                output.path,
                model.typed_metadata(),
                {name: _telling(data, count) for name, data in output.tensors.items()},
                alignment=model.alignment,
                version=model.version,
                share=None if run is None else run[0],
                on_bytes=count,
            )
    return shared


def _telling(source: TensorData, tell: OnBytes) -> TensorData:
    """As ranges do: of its bytes, once they are made."""
    make = source.data
    if not callable(make):
        return source

    def made() -> Any:
        data = make()
        tell(source.type.nbytes(source.shape), False)
        return data

    return TensorData(source.type, source.shape, made)


def _check_room(outputs: Sequence[Output]) -> None:
    """All of them together where they go to one disk."""
    needed: dict[int, int] = {}
    for output in outputs:
        disk = output.path.parent.stat().st_dev
        needed[disk] = needed.get(disk, 0) + output.needed_bytes()
        check_room(output.path, needed[disk], "free some room, or give a folder of another disk")
