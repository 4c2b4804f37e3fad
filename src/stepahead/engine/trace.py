"""What one step did for one sequence, and what was expected of it: a record a step, for those who ask why.

Plain data: whoever writes, reads or plots it knows no engine.
"""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepTrace:
    """One verified step of one sequence. Milliseconds are of the whole step, all sequences together."""

    step: int  # of the engine, from 0
    request_id: int
    position: int  # tokens of the sequence before the step
    num_sequences: int  # that ran beside each other in the step, this one included
    num_rows: int  # of the whole pass
    source: str  # of the verified draft: "mtp", "copy", "forced"; "" if nothing was verified
    depth: int  # draft tokens verified
    num_drafted: int  # draft tokens made, those included that were not worth verifying
    probabilities: tuple[float, ...]  # expected cumulative acceptance of each drafted token
    prices: tuple[float, ...]  # tokens that verifying each of them costs: throughput x marginal milliseconds
    throughput: float  # tokens per millisecond that drafts are priced with
    predicted_ms: float  # of the trunk's pass and what follows; 0 where nothing is priced
    actual_ms: float
    predicted_draft_ms: float  # of the heads' passes before it
    actual_draft_ms: float
    num_accepted: int
    num_catch_up_rows: int  # rows that heads ran without drafting
    num_experts: int  # distinct experts that the pass touched, summed over layers; 0: not counted


OnStep = Callable[[StepTrace], None]
