"""`Cycles` (models/cycles.py) by passes that the host launches: what a device does, on any backend, and in the open.

Memory that a device would have written over is filled with NaN. Positions in `undecided` are those whose tokens it
cannot choose.
"""

import numpy as np

from stepahead.backends.base import Backend
from stepahead.engine.batch import RowSpan, attention_rows
from stepahead.engine.params import SamplingParams
from stepahead.engine.sampler import Sampler, SamplerState
from stepahead.models.cycles import CycleResult
from stepahead.models.model import ForwardBatch, Model


class State:
    """Of one sequence, as it would lie on the device."""

    def __init__(self, start, backend) -> None:
        self.position = start.position
        first = start.position + 1 - len(start.token_ids)
        self.tokens = {first + place: int(token) for place, token in enumerate(start.token_ids)}
        self.next_row = list(start.next_row)
        self.first_key = start.first_key
        self.levels = [
            {}
            if rows is None
            else {row - 1 + place: values for place, values in enumerate(backend.download(rows).copy())}
            for row, rows in zip(start.next_row, start.levels, strict=True)
        ]
        self.recorded = start.recorded
        self.is_stalled = False

    def target(self, position, chosen):
        known = self._known(position)
        return chosen if known is None else int(self.recorded.token_ids[known])

    def draft(self, position, index, chosen, vocab_size):
        known = self._known(position)
        is_right = -1 if known is None else self.recorded.is_right[known, index]
        if is_right < 0:
            return chosen
        token = int(self.recorded.token_ids[known])
        return token if is_right else chosen if chosen != token else (token + 1) % vocab_size

    def _known(self, position):
        if self.recorded is None or not 0 <= position - self.recorded.start < len(self.recorded.token_ids):
            return None
        return position - self.recorded.start


class Launched:
    def __init__(self, result, error) -> None:
        self.result, self.error, self.num_waits = result, error, 0

    def wait(self):
        self.num_waits += 1
        if self.error is not None:
            raise self.error
        return self.result


class HostCycles:
    def __init__(self, model: Model, backend: Backend, kv, max_rows=16) -> None:
        self.model, self.backend, self.kv, self.max_rows = model, backend, kv, max_rows
        self.sampler = Sampler()
        self.undecided: set[int] = set()
        self.fail_at: dict[int, Exception] = {}  # of the launches: raised by wait
        self.num_begun = self.num_launched = self.num_ahead = 0
        self._states: list[State] = []
        self._live: list[Launched] = []

    def can_run(self, num_sequences, depth, num_blocks):
        num_heads = 0 if self.model.draft is None else self.model.draft.num_heads
        return num_sequences * (depth + 1) <= self.max_rows and depth <= num_heads

    def begin(self, starts, depth, num_blocks, sample):
        assert all(start.position + head - row <= depth for start in starts for head, row in enumerate(start.next_row))
        self._states = [State(start, self.backend) for start in starts]
        self._depth, self._num_blocks, self._sample = depth, num_blocks, sample
        self._live, self._tables, self.num_begun = [], None, self.num_begun + 1

    def launch(self, tables):
        assert all(len(table) <= self._num_blocks for group in tables for table in group)
        self._check_kept(tables)
        self.num_ahead += bool(self._live and not self._live[-1].num_waits)
        for old in self._live[-2:-1]:
            for rows in (old.result.hidden, *old.result.outputs):
                rows[...] = np.nan
        parts = [
            self._cycle(number, state, [group[number] for group in tables]) for number, state in enumerate(self._states)
        ]
        accepted, chosen, drafts, margins, hidden, outputs = zip(*parts, strict=True)
        result = CycleResult(
            np.array(accepted, np.int32),
            np.array(chosen, np.int32),
            np.array(drafts, np.int32).reshape(len(parts), self._depth),
            np.array(margins, np.float32).reshape(len(parts), self._depth),
            np.concatenate(hidden),
            tuple(np.concatenate(each) for each in zip(*outputs, strict=True)),
        )
        launched = Launched(result, self.fail_at.get(self.num_launched))
        self._live.append(launched)
        self.num_launched += 1
        return launched

    def _check_kept(self, tables):
        """What a cycle before this one may have written is where it was."""
        before, self._tables = self._tables, [[list(table) for table in group] for group in tables]
        for group, old_group in zip(self._tables, before or self._tables, strict=True):
            for table, old in zip(group, old_group, strict=True):
                assert len(table) >= len(old), "blocks of a cycle on its way were given back"
                assert all(-1 in (block, other) or block == other for block, other in zip(table, old, strict=False))

    def _cycle(self, number, state, tables):
        depth, position, size = self._depth, state.position, self.model.hidden_size
        empty = np.full((depth + 1, size), np.nan, np.float32)
        if state.is_stalled:
            return -1, [0] * (depth + 1), [0] * depth, [0.0] * depth, empty, [empty] * depth
        drafts, margins, outputs = [], [], []
        for head in range(depth):
            token, margin, rows = self._draft(number, state, tables, head)
            state.tokens[position + 1 + head] = token
            drafts.append(token), margins.append(margin), outputs.append(rows)
        hidden, logits = self._verify(state, tables)
        chosen = [
            -1 if position + 1 + row in self.undecided else
            state.target(position + 1 + row, self._choose(number, values, position + 1 + row).token_id)
            for row, values in enumerate(logits)
        ]  # fmt: skip
        count = next((row for row in range(depth) if chosen[row] != drafts[row]), depth)
        if chosen[count] < 0:
            state.is_stalled = True
            return -1, chosen, drafts, margins, empty, [empty] * depth
        for row, values in enumerate(hidden if depth else ()):
            state.levels[0][position + row] = values
        for row in range(count + 1):
            state.tokens[position + 1 + row] = chosen[row]
        state.position = position + count + 1
        state.next_row = [min(position + head + 1, state.position) for head in range(depth)]
        return count, chosen, drafts, margins, hidden, outputs

    def _draft(self, number, state, tables, head):
        rows = range(state.next_row[head], state.position + head + 1)
        inputs = self.backend.upload(np.stack([state.levels[head][row - 1] for row in rows]))
        group = self.model.layers[self.model.draft.layers[head]].kv_group
        self.backend.begin_step()
        batch = self._batch(state, tables, rows, {group: state.first_key[head]}, [len(rows) - 1])
        output = self.model.draft_forward(head, batch, inputs, self.kv, lambda: None)
        found = self.backend.download(output.hidden).copy()
        for row, values in zip(rows, found if head + 1 < self._depth else (), strict=False):
            state.levels[head + 1][row] = values
        position = state.position + 1 + head
        sampled = self._choose(number, self.backend.download(output.logits)[0], position)
        token = state.draft(position, head, sampled.token_id, self.model.vocab_size)
        padded = np.full((self._depth + 1, self.model.hidden_size), np.nan, np.float32)
        padded[: len(rows)] = found
        return token, sampled.margin, padded

    def _verify(self, state, tables):
        rows = range(state.position, state.position + self._depth + 1)
        trunk = {group: 0 for group, spec in enumerate(self.model.kv_specs) if not spec.is_draft}
        self.backend.begin_step()
        batch = self._batch(state, tables, rows, trunk, range(len(rows)))
        output = self.model.forward(batch, self.kv, lambda: None)
        return self.backend.download(output.hidden).copy(), self.backend.download(output.logits).copy()

    def _batch(self, state, tables, rows, groups, logit_rows):
        attention = tuple(
            attention_rows([RowSpan(rows[0], rows[-1] + 1, tables[group], groups[group])], spec.window)
            if group in groups else None
            for group, spec in enumerate(self.model.kv_specs)
        )  # fmt: skip
        token_ids = np.array([state.tokens[row] for row in rows], np.int32)
        positions = np.arange(rows[0], rows[-1] + 1, dtype=np.int32)
        return ForwardBatch(token_ids, positions, attention, np.array(logit_rows, np.int32))

    def _choose(self, number, logits, position):
        sample = self._sample
        params = SamplingParams(
            temperature=float(sample.temperatures[number]), top_k=int(sample.top_k[number]),
            top_p=float(sample.top_p[number]), min_p=float(sample.min_p[number]),
        )  # fmt: skip
        return self.sampler.sample(logits, SamplerState(params, int(sample.seeds[number])), position)
