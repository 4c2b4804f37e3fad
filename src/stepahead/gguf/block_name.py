"""The numbers of blocks in the names of tensors: "blk.45.attn_q.weight" is of block 45.

Names come from files: a number may be none, of five thousand digits, or of a block that the file does not declare.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from stepahead.errors import ModelFormatError

MARK = "blk."
_NUMBERED = re.compile(r"blk\.(0|[1-9][0-9]{0,8})\.")
_MAX_SHOWN = 100  # characters of a name


def block_number(name: str) -> int:
    """N of "blk.N.…", -1 for other names and for an N that is no number of a block."""
    match = _NUMBERED.match(name)
    return -1 if match is None else int(match[1])


def check_blocks(path: Path, names: Iterable[str], num_blocks: int) -> None:
    """Raises ModelFormatError for the first name of a block that is not one of 0 to num_blocks - 1."""
    for name in names:
        if not name.startswith(MARK):
            continue
        number = block_number(name)
        if number < 0:
            raise ModelFormatError(f"{path}: tensor {shown(name)} is of no block: blk.N. begins the names of block N")
        if number >= num_blocks:
            raise ModelFormatError(
                f"{path}: has tensors of blk.{number}, but metadata says block_count={num_blocks}: {shown(name)}; "
                "stepahead doctor FILE says what it can mend"
            )


def shown(name: str) -> str:
    """A name as an error message shows it: on one line, and not longer than that."""
    text = name if name.isprintable() else repr(name)[1:-1]
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
