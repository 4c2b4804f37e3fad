"""What passes cost on this machine: a measured seed, and what is learnt from every step since.

A pass of n rows is predicted as the seed's figure for n rows, corrected for the distinct experts that n rows of this
text touch, times a level that follows the machine and the length of the contexts, times a correction for n that is
learnt slowly. Ratios are what decide; a level that all passes share cancels out of every decision.

Knows rows, heads and milliseconds; not drafts, nor what they are worth.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from stepahead.speculative.long_passes import LongPasses

MAX_ROWS = 32
"""Rows with a correction of their own; beyond, costs grow as they did last, or less where longer passes were seen."""

_LEVEL_GAIN = 1.0 / 16.0  # of one pass, in the level
_SHAPE_GAIN = 1.0 / 64.0  # of one pass, in the correction for its number of rows
_GROWTH_GAIN = 1.0 / 32.0  # of one pass, in the growth of experts
_HEAD_GAIN = 1.0 / 32.0
_CATCH_UP_GAIN = 1.0 / 8.0
_SHADOW_GAIN = 1.0 / 4.0
_TABLE_STEPS = 16  # passes between two tables: 10 us each
_CLIP = 2.0  # a pass that took more than twice the prediction was disturbed, and tells no more than twice


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


class PassCost:
    """Milliseconds of a verification pass by its rows, for one number of sequences side by side."""

    __slots__ = (
        "_growth",
        "_level",
        "_longer",
        "_num_learnt",
        "_seed_experts",
        "_seed_ms",
        "_shape",
        "_table",
        "ms_per_expert",
    )

    def __init__(self, seed: CostSeed, longer: LongPasses | None = None) -> None:
        """longer: of the same model, shared by all numbers of sequences."""
        self._longer = longer or LongPasses(MAX_ROWS)
        self._seed_ms = interpolate(seed.rows, seed.pass_ms, MAX_ROWS)
        self._seed_experts = interpolate(seed.rows, seed.num_experts, MAX_ROWS)
        self.ms_per_expert = seed.ms_per_expert
        self._level = 1.0
        self._shape = [1.0] * (MAX_ROWS + 1)
        self._growth = [1.0] * (MAX_ROWS + 1)  # distinct experts of n rows, to the seed's
        self._num_learnt = 0
        self._table: list[float] = []
        self._tabulate()

    def __call__(self, num_rows: int) -> float:
        """Predicted milliseconds. Never falls as rows are added."""
        if num_rows <= MAX_ROWS:
            return self._table[num_rows] * self._level
        extra, seen = self._extra(num_rows), self._longer.extra(num_rows)
        return self._table[MAX_ROWS] * self._level + (extra if seen is None else min(extra, seen))

    def _extra(self, num_rows: int) -> float:
        """Of a long pass, to one of MAX_ROWS, if each row cost what the last one did."""
        return (num_rows - MAX_ROWS) * (self._table[MAX_ROWS] - self._table[MAX_ROWS - 1]) * self._level

    def learn(self, num_rows: int, milliseconds: float, growth: Seq[int] = ()) -> None:
        """A pass of num_rows took so long; growth[j]: distinct experts of its first j + 1 rows, () if not counted."""
        if num_rows > MAX_ROWS:
            return
        ratio = min(max(milliseconds / self(num_rows), 1.0 / _CLIP), _CLIP)
        self._level *= ratio**_LEVEL_GAIN
        self._shape[num_rows] *= ratio**_SHAPE_GAIN
        if len(growth):
            self.learn_growth(growth)
        self._num_learnt += 1
        if self._num_learnt % _TABLE_STEPS == 0:
            self._tabulate()

    def learn_long(self, num_rows: int, milliseconds: float) -> None:
        """A pass with rows of prompts took so long: nothing is learnt of short ones."""
        if num_rows > MAX_ROWS:
            extra = milliseconds - self._table[MAX_ROWS] * self._level
            self._longer.learn(num_rows, min(extra, self._extra(num_rows)))

    def learn_growth(self, growth: Seq[int]) -> None:
        """Distinct experts of the first j + 1 rows of a text: of a pass, or of a prompt."""
        ratio = 1.0
        for number, count in enumerate(growth, start=1):
            if number > MAX_ROWS or self._seed_experts[number] <= 0.0:
                return
            self._growth[number] += (count / self._seed_experts[number] - self._growth[number]) * _GROWTH_GAIN
            ratio = self._growth[number]
        # Passes longer than any that was seen: as the longest.
        for number in range(len(growth) + 1, MAX_ROWS + 1):
            self._growth[number] += (ratio - self._growth[number]) * _GROWTH_GAIN

    def _tabulate(self) -> None:
        values, highest = [0.0], 0.0
        for number in range(1, MAX_ROWS + 1):
            experts = self._seed_experts[number] * (self._growth[number] - 1.0) * self.ms_per_expert
            # A wrong price of experts must not make a pass free.
            milliseconds = max(self._seed_ms[number] + experts, 0.5 * self._seed_ms[number])
            highest = max(highest, milliseconds * self._shape[number])
            values.append(highest)
        self._table = values


class HeadCost:
    """Milliseconds of a round's draft passes, each head's with the rows that it usually catches up on the way."""

    __slots__ = ("_head_ms", "_overhead", "row_ms", "shadow_ms")

    def __init__(self, seed: CostSeed) -> None:
        self._head_ms = list(seed.head_ms)
        self._overhead = 0.0  # of a pass, outside of it: choosing a token
        self.shadow_ms = 0.0  # of a draft that nobody asked for, with what the head had to catch up for it
        self.row_ms = 0.5 * (seed.head_row_ms + seed.kv_row_ms)  # of catching up: half the rows need no outputs

    def __call__(self, step: int) -> float:
        """Predicted milliseconds of draft pass `step`, 0 the first; the last head's where it is used again."""
        return self._head_ms[min(step, len(self._head_ms) - 1)] + self._overhead

    def catch_up(self, num_rows: int) -> float:
        """Predicted milliseconds of num_rows rows that only catch up."""
        return num_rows * self.row_ms

    def learn_pass(self, head: int, milliseconds: float, has_few_rows: bool = True) -> None:
        """One draft pass of a head. One that took many rows along tells only what a pass does not exceed."""
        old = self._head_ms[head]
        limit = _CLIP * old if has_few_rows else old
        self._head_ms[head] += (min(milliseconds, limit) - old) * _HEAD_GAIN

    def learn_catch_up(self, num_rows: int, milliseconds: float) -> None:
        """Rows that only caught up; of all heads together."""
        if num_rows > 0:
            self.row_ms += (milliseconds / num_rows - self.row_ms) * _CATCH_UP_GAIN

    def learn_shadow(self, milliseconds: float) -> None:
        self.shadow_ms += (milliseconds - self.shadow_ms) * _SHADOW_GAIN

    def learn_overhead(self, num_passes: int, milliseconds: float) -> None:
        """A round of so many passes spent this long outside of them."""
        mean = milliseconds / num_passes
        self._overhead += (min(mean, 2 * self._overhead + 0.05) - self._overhead) * _HEAD_GAIN


def interpolate(rows: Seq[int], values: Seq[float], last: int) -> list[float]:
    """[0, value of 1 row, ..., value of `last` rows], straight between the given ones and beyond the last two."""
    points = list(zip(rows, values, strict=True))
    if len(points) == 1:
        points.append((rows[0] + 1, 2 * values[0]))
    result, part = [0.0], 0
    for number in range(1, last + 1):
        while part < len(points) - 2 and points[part + 1][0] < number:
            part += 1
        (low, low_value), (high, high_value) = points[part], points[part + 1]
        result.append(low_value + (number - low) * (high_value - low_value) / (high - low))
    return result
