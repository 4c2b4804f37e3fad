"""Which rows a step runs: `ScheduledBatch` as the scheduler decides it, `ForwardBatch` as the model sees it."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np

from stepahead.backends.base import BLOCK_SIZE, AttentionRows, Ints
from stepahead.engine.request import Draft, Sequence


@dataclass(frozen=True, slots=True, eq=False)
class ScheduledRows:
    """The rows of one sequence in one step: positions start .. end - 1; the last draft rows may be among them."""

    sequence: Sequence
    start: int
    end: int
    draft: Draft  # the part of sequence.draft whose rows are in this step; empty unless the prompt is done
    first_row: int  # number of its first row in the batch
    logits_start: int  # number of its first row of logits in the batch; meaningless if num_logits is 0
    num_logits: int  # 1 + len(draft.token_ids) when the last committed token is in this step, else 0

    @property
    def is_prompt(self) -> bool:
        """Rows that catch up with the prompt are among them, not only those that bring the next tokens."""
        return self.end - self.start != self.num_logits


@dataclass(frozen=True, slots=True, eq=False)
class ScheduledBatch:
    rows: tuple[ScheduledRows, ...]

    @property
    def num_rows(self) -> int:
        return sum(rows.end - rows.start for rows in self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class RowSpan:
    """Rows start .. end - 1 of one sequence in one KV group, with its block table there."""

    start: int
    end: int
    table: Seq[int]  # block ids by position // BLOCK_SIZE, -1: none
    first_valid: int = 0  # no key below this position exists


def attention_rows(spans: Seq[RowSpan], window: int | None) -> AttentionRows:
    """The rows of all spans, one after the other, as attention needs them in one KV group."""
    if len(spans) == 1:
        return _rows_of_one(spans[0], window)
    positions = np.concatenate([np.arange(span.start, span.end, dtype=np.int32) for span in spans])
    lengths = np.array([span.end - span.start for span in spans], dtype=np.int32)
    sequences = np.repeat(np.arange(len(spans), dtype=np.int32), lengths)
    first_keys = np.repeat(np.array([span.first_valid for span in spans], dtype=np.int32), lengths)
    if window is not None:
        first_keys = np.maximum(first_keys, positions - np.int32(window - 1))
    tables = _pad_tables(spans)
    blocks = tables[sequences, positions // BLOCK_SIZE]
    assert blocks.min(initial=0) >= 0, "a scheduled row has no block"
    slots = blocks * BLOCK_SIZE + positions % BLOCK_SIZE
    return AttentionRows(positions, first_keys, sequences, tables, slots.astype(np.int32))


def _rows_of_one(span: RowSpan, window: int | None) -> AttentionRows:
    """The same for one sequence, in half the time: every step and every draft pass of a lone request asks."""
    positions = np.arange(span.start, span.end, dtype=np.int32)
    first_keys = np.full(len(positions), span.first_valid, dtype=np.int32)
    if window is not None:
        first_keys = np.maximum(first_keys, positions - np.int32(window - 1))
    slots = positions.copy()
    for index in range(span.start // BLOCK_SIZE, -(-span.end // BLOCK_SIZE)):
        assert span.table[index] >= 0, "a scheduled row has no block"
        first = max(index * BLOCK_SIZE - span.start, 0)
        slots[first : (index + 1) * BLOCK_SIZE - span.start] += (span.table[index] - index) * BLOCK_SIZE
    sequences = np.zeros(len(positions), dtype=np.int32)
    return AttentionRows(positions, first_keys, sequences, np.array([span.table], dtype=np.int32), slots)


def _pad_tables(spans: Seq[RowSpan]) -> Ints:
    width = max(1, *(len(span.table) for span in spans))
    tables = np.full((len(spans), width), -1, dtype=np.int32)
    for number, span in enumerate(spans):
        tables[number, : len(span.table)] = span.table
    return tables
