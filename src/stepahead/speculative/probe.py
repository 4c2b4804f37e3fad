"""Measures what passes cost: short ones, over KV memory of its own, until there is a `CostSeed`.

Running sequences are not disturbed and no counter moves. Knows models and backends; not requests, nor what a draft is
worth, nor where costs are kept.
"""

import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stepahead.backends.base import BLOCK_SIZE, Backend, Ints, SampleRows
from stepahead.engine.batch import RowSpan, attention_rows
from stepahead.engine.runner import never_interrupt
from stepahead.machine import major_faults
from stepahead.models.model import ForwardBatch, ForwardOutput, Model
from stepahead.speculative.cost import CostSeed

ROWS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
SECONDS = 1.0
QUICK_SECONDS = 0.015
"""A model that is through with its first round by then is measured no longer: it was loaded in less."""
MAX_ROUNDS = 5
PATIENT_ROUNDS = 25
PATIENCE = 3  # times `seconds`, for a model that is still on the disk
REPEATED_ROWS = 8  # of one token, against as many of different ones: experts are what they differ in
MIN_RATIO = 1.05  # of their times, from which on the difference is more than the clock's
HEAD_ROWS = 8
KV_ROWS = BLOCK_SIZE
ROW_SHARE = 0.05  # of a head's pass, a further row; measured at Step's sizes, used where time did not last for it

Kind = Literal["trunk", "repeated", "head", "kv"]
Times = dict["Pass", list[float]]
"""Milliseconds."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One kind of pass. "repeated": rows of one token; "head": logits of the last row; "kv": of a head, no output."""

    kind: Kind
    num_rows: int
    head: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    ms: float
    is_cold: bool  # weights were read from the disk, or kernels compiled and recorded, which happens once


def measure(
    model: Model, backend: Backend, kv_type: str, seconds: float = SECONDS, is_patient: bool = False
) -> CostSeed:
    """What passes of this model cost now, once its weights are in memory.

    Takes `seconds` at most, but for the last pass and for 1, 2 and 4 rows and the first head, which are run once
    whatever they take. What has to be read from the disk before comes on top. is_patient: a quick model is measured
    as often as a slow one, and both more often.
    """
    order = _order(model)
    bench = _Bench(model, backend, kv_type)
    times = _time(bench.run, order, seconds, is_patient)
    return _seed(times, bench.num_experts, _num_heads(model))


def _num_heads(model: Model) -> int:
    return 0 if model.draft is None else model.draft.num_heads


def _order(model: Model) -> list[Pass]:
    """The passes of a round, what matters most first: a slow model may not get to the end of it."""
    num_heads = _num_heads(model)
    is_moe = any(layer.is_moe for layer in model.layers[: model.num_trunk_layers])
    return [
        *(Pass("trunk", count) for count in (1, 2)),
        *(Pass("head", 1, head) for head in range(num_heads)),
        Pass("trunk", 4),
        *([Pass("head", HEAD_ROWS)] if num_heads else []),
        Pass("trunk", 8),
        *([Pass("repeated", REPEATED_ROWS)] if is_moe else []),
        *([Pass("kv", KV_ROWS)] if num_heads else []),
        *(Pass("trunk", count) for count in (16, 3, 6, 12, 5)),
    ]


def _time(run: Callable[[Pass], Sample], order: Seq[Pass], seconds: float, is_patient: bool) -> Times:
    """The milliseconds of each pass, in rounds over all of them."""
    limit, spent, times = seconds, 0.0, Times()
    deadline = time.perf_counter() + PATIENCE * seconds
    for number in range(PATIENT_ROUNDS if is_patient else MAX_ROUNDS):
        for one in order:
            is_over = spent >= limit or time.perf_counter() >= deadline
            if is_over and (one in times or not _is_indispensable(one)):
                continue
            sample = run(one)
            if sample.is_cold:
                sample = run(one)  # what it read from the disk is in memory now, if it can be at all
            times.setdefault(one, []).append(sample.ms)
            spent += sample.ms / 1e3
        if number == 0 and spent < QUICK_SECONDS and not is_patient:
            limit = min(QUICK_SECONDS, seconds)
    return times


def _is_indispensable(one: Pass) -> bool:
    return one.num_rows <= (4 if one.kind == "trunk" else 1) and one.num_rows != 3 and one.head == 0


class _Bench:
    """Runs single passes behind no prefix. Memory is a block of keys and values a layer."""

    def __init__(self, model: Model, backend: Backend, kv_type: str) -> None:
        self._model = model
        self._backend = backend
        self._kv = tuple(backend.new_kv(1, layer.num_kv_heads, layer.head_dim, kv_type) for layer in model.layers)
        self._token_ids = np.random.default_rng(0).integers(0, model.vocab_size, BLOCK_SIZE, dtype=np.int32)
        self._hidden = backend.zeros(BLOCK_SIZE, model.hidden_size)
        self.num_experts: dict[Pass, int] = {}
        self._has_own_memory = backend.own_memory is not None

    def run(self, one: Pass) -> Sample:
        """A pass, its logits brought to the host as whoever chooses a token needs them, or the tokens if the backend
        does."""
        is_first = one not in self.num_experts
        faults, started = major_faults(), time.perf_counter()
        self._backend.begin_step()
        output = self._draft(one) if one.kind in ("head", "kv") else self._trunk(one)
        if output.logits is not None:
            self._choose(output)
        milliseconds = 1e3 * (time.perf_counter() - started)
        self.num_experts[one] = max(self._backend.routed_experts(), default=0)
        return Sample(milliseconds, is_cold=major_faults() > faults or (is_first and self._has_own_memory))

    def _choose(self, output: ForwardOutput) -> None:
        assert output.logits is not None
        if not self._backend.can_sample:
            self._backend.download(output.logits)
            return
        sampled = output.sampled or self._backend.sample(
            output.logits, SampleRows.greedy(output.logits.shape[0]), output.logit_ids
        )
        sampled.ids()

    def _trunk(self, one: Pass) -> ForwardOutput:
        groups = [number for number, spec in enumerate(self._model.kv_specs) if not spec.is_draft]
        token_ids = self._token_ids[: one.num_rows]
        if one.kind == "repeated":
            token_ids = np.repeat(token_ids[:1], one.num_rows)
        batch = self._batch(token_ids, groups, np.arange(one.num_rows, dtype=np.int32))
        return self._model.forward(batch, self._kv, never_interrupt)

    def _draft(self, one: Pass) -> ForwardOutput:
        assert self._model.draft is not None
        group = self._model.layers[self._model.draft.layers[one.head]].kv_group
        rows = np.arange(one.num_rows, dtype=np.int32)
        wanted = rows[-1:] if one.kind == "head" else rows[:0]
        output_rows = None if one.kind == "head" else wanted
        batch = self._batch(self._token_ids[: one.num_rows], [group], wanted, output_rows)
        hidden = self._backend.gather_rows(self._hidden, rows)
        return self._model.draft_forward(one.head, batch, hidden, self._kv, never_interrupt)

    def _batch(
        self, token_ids: Ints, groups: Seq[int], logit_rows: Ints, output_rows: Ints | None = None
    ) -> ForwardBatch:
        span = RowSpan(0, len(token_ids), [0])
        attention = tuple(
            attention_rows([span], spec.window) if number in groups else None
            for number, spec in enumerate(self._model.kv_specs)
        )
        positions = np.arange(len(token_ids), dtype=np.int32)
        sample = SampleRows.greedy(len(logit_rows)) if self._backend.can_sample else None
        return ForwardBatch(token_ids, positions, attention, logit_rows, output_rows, sample)


def _seed(times: Times, num_experts: dict[Pass, int], num_heads: int) -> CostSeed:
    trunk = {one.num_rows: min(found) for one, found in times.items() if one.kind == "trunk"}
    experts = {one.num_rows: float(num_experts.get(one, 0)) for one in times if one.kind == "trunk"}
    head_row_ms, kv_row_ms = _row_costs(times) if num_heads else (0.0, 0.0)
    return CostSeed(
        rows=ROWS,
        pass_ms=tuple(ascending(_fill(trunk))),
        num_experts=tuple(ascending(_fill(experts))),
        ms_per_expert=_expert_cost(times, num_experts),
        head_ms=tuple(_head_costs(times, num_heads)),
        head_row_ms=head_row_ms,
        kv_row_ms=kv_row_ms,
    )


def _fill(found: dict[int, float]) -> list[float]:
    """A value for each of ROWS: between those found on a line, beyond them as the last two go on."""
    known = sorted(found)
    values = np.interp(ROWS, known, [found[count] for count in known]).tolist()
    slope = (found[known[-1]] - found[known[-2]]) / (known[-1] - known[-2])
    return [value + max(slope, 0.0) * max(count - known[-1], 0) for count, value in zip(ROWS, values, strict=True)]


def ascending(values: Seq[float]) -> list[float]:
    """The nearest values none of which is below the one before: neighbours in the wrong order share their mean.

    More rows never cost less; a price must not be negative because a clock was interrupted.
    """
    runs: list[tuple[float, int]] = []
    for value in values:
        mean, count = value, 1
        while runs and runs[-1][0] > mean:
            before, length = runs.pop()
            mean, count = (mean * count + before * length) / (count + length), count + length
        runs.append((mean, count))
    return [mean for mean, count in runs for _ in range(count)]


def _head_costs(times: Times, num_heads: int) -> list[float]:
    """One row with logits, each head; one that was not reached costs what the head before it does."""
    costs: list[float] = []
    for head in range(num_heads):
        found = times.get(Pass("head", 1, head))
        costs.append(min(found) if found else costs[-1])
    return costs


def _row_costs(times: Times) -> tuple[float, float]:
    """(a further row of a draft pass, a row of keys and values alone), milliseconds."""
    single = min(times[Pass("head", 1)])
    many, keys = times.get(Pass("head", HEAD_ROWS)), times.get(Pass("kv", KV_ROWS))
    row = (min(many) - single) / (HEAD_ROWS - 1) if many else single * ROW_SHARE
    row = max(row, 0.0)
    return row, min(keys) / KV_ROWS if keys else row


def _expert_cost(times: Times, num_experts: dict[Pass, int]) -> float:
    """Of reading one expert more; 0 where nothing is seen of it. At most what a pass of one row is of each it reads."""
    one, many, few = Pass("trunk", 1), Pass("trunk", REPEATED_ROWS), Pass("repeated", REPEATED_ROWS)
    further = num_experts.get(many, 0) - num_experts.get(few, 0)
    if further <= 0 or many not in times or few not in times or min(times[many]) < MIN_RATIO * min(times[few]):
        return 0.0
    return min((min(times[many]) - min(times[few])) / further, min(times[one]) / num_experts[one])
