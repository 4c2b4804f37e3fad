"""A place in a text where another sequence can go on: what sliding windows and heads need of the rows before it.

Plain data. The blocks that layers with full attention need are found by tokens (engine/radix_tree.py).
"""

from dataclasses import dataclass

from stepahead.backends.base import Tensor
from stepahead.models.model import DraftSpec


@dataclass(frozen=True, slots=True, eq=False)
class RowBlock:
    """The trunk's hidden rows of the positions first, first + 1, ...; never written again, so snapshots share it."""

    first: int  # a multiple of BLOCK_SIZE
    rows: Tensor

    @property
    def nbytes(self) -> int:
        num_rows, width = self.rows.shape
        return 4 * num_rows * width


@dataclass(frozen=True, slots=True, eq=False)
class HiddenRows:
    """The trunk's newest hidden rows, block by block: the heads rebuild their own state from them."""

    blocks: tuple[RowBlock, ...]
    lowest: int  # the fewest tokens that a sequence may have to find in them what its heads read


@dataclass(slots=True, eq=False)
class Snapshot:
    """After `position` tokens of a text. Serves any sequence whose first n tokens are the text's, lowest <= n <=
    position."""

    position: int
    first_blocks: tuple[int, ...]  # by KV group: which block of the text comes first in `blocks`
    # By KV group: of a sliding one its window and slack, of a full one the last block if it is not full. Pinned.
    blocks: tuple[tuple[int, ...], ...]
    lowest: int  # by the sliding groups' blocks
    hidden: HiddenRows | None = None  # set by a proposer while it observes the step; None: unknown
    tail: tuple[int, ...] = ()  # the text's tokens behind its last full block
    salt: str = ""  # of its text, once it can be found

    def serves(self, num_tokens: int, needs_hidden: bool) -> bool:
        """True if a sequence of num_tokens finds everything: a hit is the minimum over all groups."""
        if not self.lowest <= num_tokens <= self.position:
            return False
        return not needs_hidden or (self.hidden is not None and self.hidden.lowest <= num_tokens)


def hidden_lowest(draft: DraftSpec, first: int) -> int | None:
    """The fewest tokens that a sequence may have to find what heads read in the hidden rows from `first` on; None:
    heads that see everything find too little in these."""
    if first == 0:
        return 0
    return None if draft.window is None else first + draft.num_heads * draft.window
