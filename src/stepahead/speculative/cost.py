"""What passes cost on this machine: a measured seed, and what is learnt from every step since.

Knows rows, heads and milliseconds; not drafts, nor what they are worth.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CostSeed:
    """Milliseconds measured for one model on one machine, before anything is drafted.

    A pass of rows[i] rows (of one sequence, logits for all of them, as in verification) took pass_ms[i] and touched
    num_experts[i] distinct experts, summed over layers (0: dense, or not counted).
    """

    rows: tuple[int, ...]  # ascending, from 1
    pass_ms: tuple[float, ...]
    num_experts: tuple[float, ...]
    ms_per_expert: float  # of reading one more expert; 0: not known
    head_ms: tuple[float, ...]  # one draft pass of each head, one row with logits; () without heads
    head_row_ms: float  # each further row of a draft pass
    kv_row_ms: float  # a row of which a head computes keys and values alone
