"""Who computes which tokens this step, and what becomes of the verdicts.

Owns the life of a sequence: waiting, running, finished. There is no prefill or decode phase: a sequence has
num_computed_tokens and a target, and each step lets the first catch up under a budget of rows. A request is admitted
when its worst case fits beside the others', so that a running sequence never waits for memory. Knows positions and
blocks; not models, logits, or where drafts come from.
"""

import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq

from stepahead.backends.base import BLOCK_SIZE
from stepahead.engine.batch import ScheduledBatch, ScheduledRows
from stepahead.engine.chunk_budget import ChunkBudget
from stepahead.engine.commit import commit_abort, commit_verdict
from stepahead.engine.held_prompts import HeldPrompts
from stepahead.engine.kv_cache import Drop, KVCache, blocks_needed
from stepahead.engine.prefix_cache import Hit, PrefixCache
from stepahead.engine.prefix_spill import PrefixSpill
from stepahead.engine.request import NO_DRAFT, Draft, FinishReason, Request, RequestOutput, Sequence, Verdict
from stepahead.engine.row_shares import rows_of_step
from stepahead.errors import CapacityError, RequestError

Admit = Callable[[Sequence], None]
"""Told that a sequence was admitted; sequence.kv may hold a prefix."""

CopyBlock = Callable[[int, int, int], None]
"""Copies a block of a KV group: group, old, new."""

SNAPSHOT_TOKENS = 1024
"""Of a prompt: a snapshot is taken every so many tokens."""


READ_PAUSE_S = 0.001
"""From one look at a disk's reading to the next, while nothing else is to be done."""


def _ignore(*_: object) -> None:
    pass


class Scheduler:
    """First come, first served, but for those who wait for a prefix; at most max_num_seqs at once and chunk_tokens rows
    a step."""

    def __init__(
        self,
        kv_cache: KVCache,
        max_num_seqs: int,
        chunk_tokens: int,
        drop: Drop = _ignore,
        max_step_ms: float | None = None,
        cache: PrefixCache | None = None,
        spill: PrefixSpill | None = None,
    ) -> None:
        """max_step_ms: what a step may take while somebody decodes, as far as prompts can help it; None: no limit.
        spill: where prefixes outlive the cache; None: nowhere."""
        assert 1 <= max_num_seqs <= chunk_tokens, "every running sequence may want a row of the same step"
        self.chunk_budget = ChunkBudget(max_step_ms)
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self.on_admit: Admit = _ignore  # the engine sets its own, and the next
        self.copy_block: CopyBlock = _ignore
        self.prefix_cache = PrefixCache(kv_cache) if cache is None else cache
        self.held_prompts = HeldPrompts(kv_cache.slack)
        self.spill = spill
        self._kv_cache = kv_cache
        self._max_num_seqs = max_num_seqs
        self.chunk_tokens = chunk_tokens
        self._on_drop = drop
        self._trunk_groups = [group for group, spec in enumerate(kv_cache.specs) if not spec.is_draft]
        self._full_groups = [group for group in self._trunk_groups if kv_cache.specs[group].window is None]
        self._has_heads = any(spec.is_draft for spec in kv_cache.specs)

    @property
    def has_unfinished(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def is_settled(self) -> bool:
        """All that run decode, and nobody waits who might be admitted: the next step has the rows of the last."""
        can_admit = bool(self.waiting) and len(self.running) < self._max_num_seqs
        return not can_admit and all(sequence.is_decoding for sequence in self.running)

    def add(self, request: Request) -> Sequence:
        """Put a request in the queue. Raises RequestError or CapacityError for one that could never run."""
        self._check(request)
        sequence = Sequence(request, self._kv_cache.new())
        self.waiting.append(sequence)
        if self.spill is not None:
            self.spill.waits(sequence, _num_known(self._match(sequence)), self._needs_hidden(sequence))  # begins early
        return sequence

    def schedule(self) -> ScheduledBatch:
        """Admit what fits, share out the budget, claim blocks. A step that fails before commit is scheduled again."""
        self._admit_waiting()
        batch: list[ScheduledRows] = []
        first_row = logits_start = 0
        counts = rows_of_step(self.running, self.chunk_tokens, self._kv_cache.slack, self.chunk_budget)
        for sequence, num_rows in zip(self.running, counts, strict=True):
            if num_rows == 0:
                continue  # a prompt that waits for others
            del sequence.logprobs[sequence.num_output_tokens :]  # of a step that failed in verify
            rows = _scheduled_rows(sequence, num_rows, first_row, logits_start)
            for group in self._trunk_groups:
                while not self._kv_cache.claim(sequence.kv, group, rows.start, rows.end):
                    self._make_room()
            first_row += num_rows
            logits_start += rows.num_logits
            batch.append(rows)
        return ScheduledBatch(tuple(batch))

    def claim_ahead(self, sequence: Sequence, end: int) -> None:
        """Blocks for the trunk's rows below `end`, which stay until a commit after kv.num_claimed was taken back."""
        for group in self._trunk_groups:
            while not self._kv_cache.claim(sequence.kv, group, sequence.num_computed_tokens, end):
                self._make_room()
        sequence.kv.num_claimed = end

    def commit(self, batch: ScheduledBatch, verdicts: Seq[Verdict | None]) -> list[RequestOutput]:
        """Let sequences grow by what was verified; rows of rejected and dropped tokens are truncated."""
        outputs: list[RequestOutput] = []
        for rows, verdict in zip(batch.rows, verdicts, strict=True):
            sequence = rows.sequence
            num_tokens = rows.end
            if verdict is not None:
                outputs.append(commit_verdict(rows, verdict))
                # The last token has not been through the trunk. (An accepted one that ended its sequence has: the
                # one row is given up, so that the rule has no exception.)
                num_tokens = len(sequence.token_ids) - 1
            self._take_snapshots(sequence, num_tokens)
            self._kv_cache.advance(sequence.kv, rows.end, num_tokens)
            sequence.num_computed_tokens = num_tokens
        return outputs

    def learn(self, batch: ScheduledBatch, milliseconds: float) -> None:
        """The step of this batch took so long: the next one's prompts are cut accordingly."""
        chunks = [(rows.end - rows.start, rows.start) for rows in batch.rows if rows.is_prompt]
        self.chunk_budget.learn(batch.num_rows - sum(count for count, _ in chunks), chunks, milliseconds)

    def retire(self) -> None:
        """Publish what snapshots were taken and take finished sequences out; after the proposer has observed."""
        for sequence in self.running:
            for snapshot in sequence.snapshots:
                if self.spill is not None:
                    self.spill.save(sequence, snapshot)
                self.prefix_cache.publish(snapshot, sequence.kv, sequence.token_ids, sequence.request.cache_salt)
            sequence.snapshots.clear()
        finished = [sequence for sequence in self.running if sequence.is_finished]
        self.running = [sequence for sequence in self.running if not sequence.is_finished]
        for sequence in finished:
            self._drop(sequence)

    def rest(self) -> None:
        """Nothing could be scheduled: those who wait, wait for a disk."""
        if self.spill is not None and self.spill.is_reading:
            time.sleep(READ_PAUSE_S)

    def drop_aborted(self) -> list[RequestOutput]:
        """End every sequence whose abort flag is set, and free what it holds."""
        aborted = [sequence for sequence in (*self.running, *self.waiting) if sequence.is_aborted]
        if not aborted:
            return []
        for sequence in self.running:
            if sequence in aborted:
                self._drop(sequence)
        # By the list, not by the flag: another thread may be setting flags.
        self.running = [sequence for sequence in self.running if sequence not in aborted]
        self.waiting = deque(sequence for sequence in self.waiting if sequence not in aborted)
        for sequence in aborted:
            self._forget_wait(sequence)
        return [commit_abort(sequence) for sequence in aborted]

    def _check(self, request: Request) -> None:
        num_prompt, num_new = len(request.prompt_ids), request.max_new_tokens
        if num_prompt == 0:
            raise RequestError("the prompt is empty: give at least one token")
        if num_new < 1:
            raise RequestError(f"max_new_tokens={num_new} generates nothing: give at least 1")
        needed = self._blocks_needed(num_prompt + num_new)
        for group in self._trunk_groups:
            if needed[group] > self._kv_cache.num_blocks[group]:
                raise CapacityError(
                    f"{num_prompt} prompt tokens and {num_new} new ones need {needed[group]} KV blocks of group "
                    f"{self._kv_cache.specs[group].name!r}, which has {self._kv_cache.num_blocks[group]}: shorten the "
                    "prompt, lower max_tokens or raise context_length"
                )

    def _admit_waiting(self) -> None:
        """Those who wait for a prefix let others pass; those without room do not."""
        if self.spill is not None:
            self.spill.adopt()
        index = 0
        while index < len(self.waiting) and len(self.running) < self._max_num_seqs:
            sequence = self.waiting[index]
            if self._is_held(sequence):
                index += 1
                continue
            hit = self._match(sequence)
            if self._hold(sequence, _num_known(hit)):
                index += 1
            elif self._admit(sequence, hit):
                del self.waiting[index]
                self._forget_wait(sequence)
            else:
                return

    def _match(self, sequence: Sequence) -> Hit | None:
        request = sequence.request
        return self.prefix_cache.match(request.prompt_ids, self._needs_hidden(sequence), request.cache_salt)

    def _needs_hidden(self, sequence: Sequence) -> bool:
        return self._has_heads and sequence.request.speculation.mode != "off"

    def _is_held(self, sequence: Sequence) -> bool:
        is_reading = self.spill is not None and self.spill.is_waiting(sequence)
        return is_reading or self.held_prompts.is_held(sequence)

    def _hold(self, sequence: Sequence, num_known: int) -> bool:
        """True if a prompt is better off with what is read from disk, or what another is just computing."""
        needs_hidden = self._needs_hidden(sequence)
        if self.spill is not None and self.spill.waits(sequence, num_known, needs_hidden):
            return True
        return self.prefix_cache.may_keep(sequence.num_prompt_tokens) and self.held_prompts.hold(
            sequence, self.running, num_known, needs_hidden
        )

    def _forget_wait(self, sequence: Sequence) -> None:
        self.held_prompts.forget(sequence)
        if self.spill is not None:
            self.spill.forget(sequence)

    def _admit(self, sequence: Sequence, hit: Hit | None) -> bool:
        """Reserve a sequence's worst case and start it from the longest known prefix; False: it must wait."""
        if not self._has_room(sequence, hit):
            return False
        if hit is not None:
            self._attach(sequence, hit)
        num_known = sequence.num_cached_tokens = sequence.num_computed_tokens = sequence.kv.num_tokens
        sequence.num_saved_tokens = num_known
        sequence.snapshot_positions = _snapshot_positions(sequence.request, num_known, self._kv_cache.slack)
        self.running.append(sequence)
        self.on_admit(sequence)
        sequence.hidden_rows = None
        return True

    def _has_room(self, sequence: Sequence, hit: Hit | None) -> bool:
        """True if the worst cases of all that run and of this one fit; what the cache alone holds can be had back."""
        blocks = self._kv_cache.num_blocks
        worst_cases = [self._worst_case(each) for each in (*self.running, sequence)]
        needed = [sum(counts) for counts in zip(*worst_cases, strict=True)]
        for group in self._full_groups:
            if needed[group] > blocks[group]:
                needed[group] -= self._num_shared(group, hit)
        return all(needed[group] <= blocks[group] for group in self._trunk_groups)

    def _num_shared(self, group: int, hit: Hit | None) -> int:
        """Blocks that are needed once, though several count them, in a group that gives none back before the end.

        In a sliding group each sequence will have a window of its own.
        """
        holds = [sequence.kv.tables[group] for sequence in self.running]
        if hit is not None:
            holds.append(list(hit.blocks[group][: hit.num_tokens // BLOCK_SIZE]))
        return sum(map(len, holds)) - len(set().union(*holds))

    def _attach(self, sequence: Sequence, hit: Hit) -> None:
        """Let a sequence go on from a hit; a last block that is not full becomes its own, since it writes to it."""
        kv, kv_cache = sequence.kv, self._kv_cache
        self.prefix_cache.attach(hit, kv)
        sequence.hidden_rows = hit.snapshot.hidden
        last = hit.num_tokens // BLOCK_SIZE
        for group in self._trunk_groups if hit.num_tokens % BLOCK_SIZE else ():
            while kv_cache.is_shared(kv, group, last):
                replaced = kv_cache.replace(kv, group, last)
                if replaced is not None:
                    self.copy_block(group, *replaced)
                    break
                self._make_room()

    def _take_snapshots(self, sequence: Sequence, num_tokens: int) -> None:
        """Where the sequence has come by or ends, before the sliding groups give back what lies behind."""
        due: list[int] = []
        positions = sequence.snapshot_positions
        while positions and positions[-1] <= num_tokens:
            due.append(positions.pop())
        if sequence.is_finished and sequence.finish_reason is not FinishReason.ABORT and num_tokens not in due:
            due.append(num_tokens)
        for position in due:
            sequence.snapshots.append(self.prefix_cache.take(sequence.kv, position))

    def _make_room(self) -> None:
        has_freed = self.prefix_cache.evict() or (self.spill is not None and self.spill.give_up())
        assert has_freed, "admission reserved these blocks"

    def _worst_case(self, sequence: Sequence) -> tuple[int, ...]:
        return self._blocks_needed(sequence.num_prompt_tokens + sequence.request.max_new_tokens)

    def _blocks_needed(self, num_tokens: int) -> tuple[int, ...]:
        slack = self._kv_cache.slack
        return tuple(blocks_needed(spec, num_tokens, self.chunk_tokens, slack) for spec in self._kv_cache.specs)

    def _drop(self, sequence: Sequence) -> None:
        for snapshot in sequence.snapshots:
            self.prefix_cache.discard(snapshot)
        sequence.snapshots.clear()
        self._on_drop(sequence.kv)
        self._kv_cache.release(sequence.kv)


def _num_known(hit: Hit | None) -> int:
    return 0 if hit is None else hit.num_tokens


def _snapshot_positions(request: Request, num_known: int, slack: int) -> list[int]:
    """Where snapshots of a prompt are taken beyond what is known of it, descending.

    A snapshot serves whoever has up to slack tokens fewer, so that another so close before it is not needed.
    """
    num_prompt = len(request.prompt_ids)
    wanted = {*request.snapshot_positions, *range(SNAPSHOT_TOKENS, num_prompt, SNAPSHOT_TOKENS), num_prompt}
    positions: list[int] = []
    for position in sorted(wanted, reverse=True):
        if num_known < position <= num_prompt and (not positions or position + slack < positions[-1]):
            positions.append(position)
    return positions


def _scheduled_rows(sequence: Sequence, num_rows: int, first_row: int, logits_start: int) -> ScheduledRows:
    start = sequence.num_computed_tokens
    end = start + num_rows
    num_drafted = max(end - len(sequence.token_ids), 0)
    return ScheduledRows(
        sequence=sequence,
        start=start,
        end=end,
        draft=_first_tokens(sequence.draft, num_drafted),
        first_row=first_row,
        logits_start=logits_start,
        num_logits=1 + num_drafted if end >= len(sequence.token_ids) else 0,
    )


def _first_tokens(draft: Draft, count: int) -> Draft:
    if count == len(draft.token_ids):
        return draft
    return Draft(draft.token_ids[:count], draft.confidence[:count], draft.source) if count else NO_DRAFT
