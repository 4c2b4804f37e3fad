"""Who computes which tokens this step, and what becomes of the verdicts.

Owns the life of a sequence: waiting, running, finished, parked. There is no prefill or decode phase: a sequence has
num_computed_tokens and a target, and each step lets the first catch up under a budget of rows. A request is admitted
when its worst case fits beside the others', so that a running sequence never waits for memory. Knows positions and
blocks; not models, logits, or where drafts come from.
"""

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq

from stepahead.engine.batch import ScheduledBatch, ScheduledRows
from stepahead.engine.chunk_budget import ChunkBudget
from stepahead.engine.commit import commit_abort, commit_verdict
from stepahead.engine.kv_cache import Drop, KVCache, blocks_needed
from stepahead.engine.prefix_cache import PrefixCache
from stepahead.engine.request import NO_DRAFT, Draft, FinishReason, Request, RequestOutput, Sequence, Verdict
from stepahead.engine.row_shares import rows_of_step
from stepahead.errors import CapacityError, RequestError

Admit = Callable[[Sequence], None]
"""Told that a sequence was admitted; sequence.kv may hold a prefix."""


def _ignore(_: object) -> None:
    pass


class Scheduler:
    """First come, first served; at most max_num_seqs at once and chunk_tokens rows a step."""

    def __init__(
        self,
        kv_cache: KVCache,
        max_num_seqs: int,
        chunk_tokens: int,
        drop: Drop = _ignore,
        max_step_ms: float | None = None,
    ) -> None:
        """max_step_ms: what a step may take while somebody decodes, as far as prompts can help it; None: no limit."""
        assert 1 <= max_num_seqs <= chunk_tokens, "every running sequence may want a row of the same step"
        self.chunk_budget = ChunkBudget(max_step_ms)
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self.on_admit: Admit = _ignore  # the engine sets its own
        self._kv_cache = kv_cache
        self._max_num_seqs = max_num_seqs
        self._chunk_tokens = chunk_tokens
        self._on_drop = drop
        self._trunk_groups = [group for group, spec in enumerate(kv_cache.specs) if not spec.is_draft]
        # Memory is taken as it is touched: in groups that keep every row, parked sequences touch together no more
        # than one running sequence may.
        limits = (
            max(1, blocks // max_num_seqs) if spec.window is None else blocks
            for spec, blocks in zip(kv_cache.specs, kv_cache.num_blocks, strict=True)
        )
        self.parked = PrefixCache(kv_cache, max_num_seqs, tuple(limits), drop)

    @property
    def has_unfinished(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> Sequence:
        """Put a request in the queue. Raises RequestError or CapacityError for one that could never run."""
        self._check(request)
        sequence = Sequence(request, self._kv_cache.new())
        self.waiting.append(sequence)
        return sequence

    def schedule(self) -> ScheduledBatch:
        """Admit what fits, share out the budget, claim blocks. A step that fails before commit is scheduled again."""
        self._admit_waiting()
        batch: list[ScheduledRows] = []
        first_row = logits_start = 0
        counts = rows_of_step(self.running, self._chunk_tokens, self._kv_cache.slack, self.chunk_budget)
        for sequence, num_rows in zip(self.running, counts, strict=True):
            if num_rows == 0:
                continue  # a prompt that waits for others
            del sequence.logprobs[sequence.num_output_tokens :]  # of a step that failed in verify
            rows = _scheduled_rows(sequence, num_rows, first_row, logits_start)
            for group in self._trunk_groups:
                is_claimed = self._kv_cache.claim(sequence.kv, group, rows.start, rows.end)
                assert is_claimed, "admission reserved these blocks"
            first_row += num_rows
            logits_start += rows.num_logits
            batch.append(rows)
        return ScheduledBatch(tuple(batch))

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
            self._kv_cache.advance(sequence.kv, rows.end, num_tokens)
            sequence.num_computed_tokens = num_tokens
        return outputs

    def learn(self, batch: ScheduledBatch, milliseconds: float) -> None:
        """The step of this batch took so long: the next one's prompts are cut accordingly."""
        chunks = [(rows.end - rows.start, rows.start) for rows in batch.rows if rows.is_prompt]
        self.chunk_budget.learn(batch.num_rows - sum(count for count, _ in chunks), chunks, milliseconds)

    def retire(self) -> None:
        """Take finished sequences out and park their KV for the next turn; after the proposer has observed the step."""
        finished = [sequence for sequence in self.running if sequence.is_finished]
        self.running = [sequence for sequence in self.running if not sequence.is_finished]
        for sequence in finished:
            if sequence.finish_reason is FinishReason.ABORT:
                self._drop(sequence)
            else:
                self.parked.park(sequence.kv, sequence.token_ids)

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
        while self.waiting and len(self.running) < self._max_num_seqs and self._admit(self.waiting[0]):
            self.waiting.popleft()

    def _admit(self, sequence: Sequence) -> bool:
        """Reserve a sequence's worst case and start it from the longest parked prefix; False: it must wait."""
        needed = self._blocks_needed(sequence.num_prompt_tokens + sequence.request.max_new_tokens)
        room = self._unreserved()
        if any(needed[group] > room[group] for group in self._trunk_groups):
            return False  # not even with nothing parked: so nothing is evicted for it
        entry, num_reused = self.parked.match(sequence.request.prompt_ids)
        while len(self.parked) > (entry is not None) and any(
            need + self.parked.num_held(group, besides=entry) > room[group] for group, need in enumerate(needed)
        ):
            self.parked.evict(besides=entry)
        if entry is not None:
            sequence.kv = self.parked.take(entry, num_reused)
        sequence.num_cached_tokens = sequence.num_computed_tokens = num_reused
        self.running.append(sequence)
        self.on_admit(sequence)
        return True

    def _unreserved(self) -> list[int]:
        """Blocks of each group that no running sequence may ever come to need; parked ones are among them."""
        room = list(self._kv_cache.num_blocks)
        for sequence in self.running:
            needed = self._blocks_needed(sequence.num_prompt_tokens + sequence.request.max_new_tokens)
            room = [blocks - need for blocks, need in zip(room, needed, strict=True)]
        return room

    def _blocks_needed(self, num_tokens: int) -> tuple[int, ...]:
        slack = self._kv_cache.slack
        return tuple(blocks_needed(spec, num_tokens, self._chunk_tokens, slack) for spec in self._kv_cache.specs)

    def _drop(self, sequence: Sequence) -> None:
        self._on_drop(sequence.kv)
        self._kv_cache.release(sequence.kv)


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
