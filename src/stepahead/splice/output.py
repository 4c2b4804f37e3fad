"""A file that is made of ranges of others: where it may be written, whether it fits, and what became of it.

Must not know: heads, trunks.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepahead.errors import CapacityError, ConfigError
from stepahead.gguf import FileRange, GGUFFile, write_gguf
from stepahead.gguf.destination import HEADER_BYTES, explaining_the_disk
from stepahead.gguf.file_range import can_share
from stepahead.gguf.writer import runs
from stepahead.splice.assembly import Assembly

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Output:
    """A file to write, most of it from the file `main`: the longest run of bytes from there may be shared with it."""

    path: Path
    model: Assembly
    main: GGUFFile

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self.model.tensors.values())

    def shared_run(self) -> tuple[str, FileRange]:
        """Its first tensor, and all of it."""
        found: list[tuple[str, FileRange]] = []
        for name, run in runs(self.model.ranges(), self.model.alignment):
            assert isinstance(run, FileRange)
            if run.path in self.main.shards:
                found.append((name, run))
        return max(found, key=lambda one: one[1].nbytes)

    def needed_bytes(self) -> int:
        """Room on the disk, less what is shared if this file system can."""
        _, run = self.shared_run()
        shared = run.nbytes if can_share(run.path, self.path.parent) else 0
        return self.nbytes - shared + HEADER_BYTES


def check_target(path: Path, inputs: Sequence[GGUFFile]) -> None:
    """ConfigError: not a name for a model file, or that of one of the files it is made of."""
    if path.suffix != ".gguf" or path.is_dir():
        raise ConfigError(f"{path}: is no name for a model file; give one that ends in .gguf")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: no such folder {path.parent}; create it first")
    for file in inputs:
        for shard in file.shards:
            if path.exists() and path.samefile(shard):
                raise ConfigError(f"{path}: is one of the files that are read; give the new file another name")


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

        model = output.model
        with explaining_the_disk(output.path, "give a folder of another one"):
            write_gguf(
                output.path,
                model.typed_metadata(),
                model.ranges(),
                alignment=model.alignment,
                share=output.shared_run()[0],
                on_bytes=count,
            )
    return shared


def _check_room(outputs: Sequence[Output]) -> None:
    """All of them together where they go to one disk."""
    needed: dict[int, int] = {}
    for output in outputs:
        folder = output.path.parent
        disk = folder.stat().st_dev
        needed[disk] = needed.get(disk, 0) + output.needed_bytes()
        free = shutil.disk_usage(folder).free
        if needed[disk] > free:
            raise CapacityError(
                f"{output.path}: {needed[disk] / 1e9:.1f} GB are to be written, but {folder} has {free / 1e9:.1f} GB "
                "free; free some room, or give a folder of another disk"
            )
