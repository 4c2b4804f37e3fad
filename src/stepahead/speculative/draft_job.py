"""One sequence's drafting in one round. Plain data: filled in by who runs the heads and by who chooses tokens."""

from dataclasses import dataclass, field

from stepahead.backends.base import Tensor
from stepahead.engine.request import Sequence
from stepahead.speculative.head_cache import HeadCache


@dataclass(slots=True, eq=False)
class DraftJob:
    """The last committed token stands at `position`.

    The heads, blocks and rows of a job are those of its depth when `run` or `catch_up` begins.
    """

    sequence: Sequence
    cache: HeadCache
    position: int
    depth: int  # draft tokens aimed at, in all
    token_ids: list[int] = field(default_factory=list)  # drafted so far
    links: Tensor | None = None  # (max_depth, hidden) output of pass k's last row, where draft rows are not kept

    def tokens(self, start: int, end: int) -> list[int]:
        """Committed, then drafted."""
        first_drafted = self.position + 1
        drafted = self.token_ids[max(start - first_drafted, 0) : max(end - first_drafted, 0)]
        return [*self.sequence.token_ids[start:end], *drafted]
