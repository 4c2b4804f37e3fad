"""Writes a repaired file: the header and what a repair changes are new, all other bytes are shared or copied."""

from pathlib import Path

from stepahead.filecheck.patched_file import PatchedFile
from stepahead.filecheck.repair import Repair
from stepahead.gguf import GGUFFile
from stepahead.gguf.destination import left_over
from stepahead.splice.output import Output, Progress, check_target, write


def write_fixed(view: GGUFFile, out: Path, on_progress: Progress) -> tuple[Path, ...]:
    """One file, whatever number of shards it was; there as a whole or not at all. What killed runs left beside it.

    Raises ConfigError where it cannot be written or is the file that is read, CapacityError without room.
    """
    split = {key: None for key in view.metadata if key.startswith("split.")}
    whole = PatchedFile(view, Repair("", metadata=split))
    check_target(out, [whole.original])
    abandoned = left_over(out, has_shards=False)
    write([Output(out, whole, whole.sources(), whole.original)], on_progress)
    return abandoned
