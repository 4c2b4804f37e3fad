"""What a step may draft: a bid a sequence, and their round. Filled in by the arbiter, read by whoever traces steps."""

from dataclasses import dataclass, field

from stepahead.engine.request import Sequence
from stepahead.speculative.calibration import Calibration
from stepahead.speculative.copy import Match
from stepahead.speculative.prices import ClassPrices
from stepahead.speculative.track import Track


@dataclass(slots=True, eq=False)
class Bid:
    """What one sequence may draft in this step."""

    sequence: Sequence
    track: Track
    limit: int  # draft tokens
    source: str = ""
    token_ids: tuple[int, ...] = ()
    confidence: tuple[float, ...] = ()
    chain: list[float] = field(default_factory=list)  # cumulative acceptance of token_ids
    match: Match | None = None  # a copy that might be made
    asks: bool = False  # the first head decides about the copy
    is_shadow: bool = False
    opinion: Calibration | None = None  # of the copy, by what the first head said of it


@dataclass(slots=True, eq=False)
class Round:
    """What one step knows of itself, from propose to observe."""

    started: float = 0.0
    proposed: float = 0.0
    num_sequences: int = 0  # that decode
    num_prompt_rows: int = 0
    num_rows: int = 0  # that the pass has anyway, those of prompts included
    is_new: bool = False  # others decode beside it than in the step before, or other prompts run: plans are made anew
    prices: ClassPrices | None = None  # None: nothing is priced
    rate: float = 0.0
    pass_seconds: list[float] = field(default_factory=list)
    predicted_draft_ms: float = 0.0
    actual_draft_ms: float = 0.0
    num_catch_up_rows: int = 0
    catch_up_seconds: float = 0.0
    bids: dict[int, Bid] = field(default_factory=dict)  # by request_id, where somebody wants to know

    def size_up(self, most_prompt_rows: int, before: "Round") -> None:
        """All sequences are counted: say what the pass has anyway, and whether that is about what it was before."""
        self.num_prompt_rows = min(self.num_prompt_rows, most_prompt_rows)
        self.num_rows = self.num_sequences + self.num_prompt_rows
        self.is_new = self._situation != before._situation

    @property
    def _situation(self) -> tuple[int, int]:
        return self.num_sequences, self.num_prompt_rows.bit_length()
