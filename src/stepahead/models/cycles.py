"""Draft-verify cycles that a device runs one behind the other, without a word from the host in between.

A cycle drafts with the heads, has the trunk verify, and leaves on the device where the next one begins; the host hears
of it while the next one runs. What a device can do is told here; who runs it, and when, is the engine's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from stepahead.backends.base import Floats, Ints, SampleRows, Tensor

MAX_RECORDED = 512
"""Positions of a recorded text that a device is told of at once."""


@dataclass(frozen=True, slots=True, eq=False)
class CycleStart:
    """One sequence as its first cycle finds it; heads draft in the trained chain (spec §9.4), each one token.

    The token at `position` is the last committed one, and has not been through the trunk. Head k has to run the rows
    next_row[k] .. position + k: no more than depth + 1. Row p of it reads row p - 1 of its level; level 0 are the
    trunk's hidden rows, level k + 1 the outputs of head k.
    """

    position: int
    token_ids: Ints  # committed, the last one at `position`, the first at the lowest next_row or below
    next_row: tuple[int, ...]  # of each head
    first_key: tuple[int, ...]  # of each head: no key below exists
    levels: tuple[Tensor | None, ...]  # of each head: the rows of its level from next_row[k] - 1 on; None: no row yet
    recorded: "RecordedText | None"  # stands in for the target's choices


@dataclass(frozen=True, slots=True, eq=False)
class RecordedText:
    """What engine/replay.py does, laid out for a device: entry i is of absolute position start + i. Beyond the last one
    the choices are the target's and the heads' own."""

    start: int
    token_ids: Ints  # (m,) m <= MAX_RECORDED: the target's choices
    # (m, depth) of a draft's token number j at that position: 1 it is the recorded one; 0 it is not: the head's own
    # choice, or if that is the recorded one, the id after it; -1 the head's own, whatever it is.
    is_right: npt.NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class CycleResult:
    """What one cycle has done to each of n sequences. A row of `hidden` is a token that was verified: sequence after
    sequence, depth + 1 rows each; `outputs` have as many, of which the first ones are those that a head had to run."""

    num_accepted: Ints  # (n,) draft tokens; -1: the device could not choose, and the sequence stands where it stood
    token_ids: Ints  # (n, depth + 1) the target's choice after each row; of use up to the accepted ones and one more
    draft_ids: Ints  # (n, depth)
    margins: Floats  # (n, depth) see engine.sampler.Sampled
    hidden: Tensor  # (n * (depth + 1), hidden_size)
    outputs: tuple[Tensor, ...]  # of each head, like `hidden`


class LaunchedCycle(Protocol):
    def wait(self) -> CycleResult:
        """Its tensors are written over by the second cycle launched after it."""
        ...


class Cycles(Protocol):
    """Of one model and its keys and values. Text is what passes that the host launches give, bit for bit."""

    def can_run(self, num_sequences: int, depth: int, num_blocks: int) -> bool:
        """Whether so many sequences may draft so many tokens each; num_blocks: of the longest block table."""
        ...

    def begin(self, starts: Sequence[CycleStart], depth: int, num_blocks: int, sample: SampleRows) -> None:
        """num_blocks: the tables of no cycle will be longer; sample: one row a sequence, positions are not read. What
        was launched before has been waited for, or is of no interest any more."""
        ...

    def launch(self, tables: Sequence[Sequence[Sequence[int]]]) -> LaunchedCycle:
        """One cycle more. tables: of each KV group, of each sequence, its blocks, for as far as this cycle may get.

        A sequence that the device cannot go on with stands still from then on, and writes nothing.
        """
        ...
