"""What the heads hold of one cached sequence: how far each has run, and the hidden rows that the next one reads.

Head k's row at position p takes token x_p and the row p - 1 of level k; level 0 is the trunk's hidden rows, level
k + 1 the outputs of head k. In the trained chain (SGLang, Step-3.5 MTP) row p of head k so depends on the trunk up to
p - k - 1 alone: rows written while drafting stay when their tokens are accepted, and nothing is ever run again. In
llama.cpp's chain (PR #24340) every head reads level 0, where row -1 is zero, and only draft rows are chained; those
are run again once the trunk has seen their tokens. A single head that is reused for every draft token works likewise.

Heads are filled lazily, and only those that a draft will use. A sliding head sees `window` keys, so the last of them
needs its last window of rows, and each head before it one window more: its outputs are the next one's inputs, and only
those with a whole window behind them are what a full prefill gives. The others are not kept, and need not be computed.
So a draft that becomes longer than those before it makes heads start anew, unless the rows drafted since then (their
outputs are always kept) reach back a window.

This file owns these positions; it knows nothing about passes, blocks or sampling.
"""

from dataclasses import dataclass

from stepahead.backends.base import BLOCK_SIZE, Backend, Tensor
from stepahead.engine.snapshot import HiddenRows, RowBlock, hidden_lowest
from stepahead.models.model import Chain, DraftSpec
from stepahead.speculative.hidden_tail import HiddenTail


@dataclass(frozen=True, slots=True)
class HeadPlan:
    """How one head gets ready to draft."""

    row: int  # the first that it has to run
    first_output: int  # the first whose output is of use: the next head's, or the draft's, starts there
    is_anew: bool  # the rows run so far are of no use


class HeadCache:
    """The state of all heads for one SequenceKV.

    next_row[k]: the first row that head k still has to run. first_valid[k]: the row where it last started; no key
    below exists for it. trimmed[k]: nor below this one, whose blocks were given back. first_output[k]: of the rows
    to run, the outputs below this one are of no use. The rows that level k + 1 holds end where next_row[k] is.
    """

    __slots__ = (
        "_backend",
        "_saved",
        "_spec",
        "chain",
        "first_output",
        "first_valid",
        "hidden_size",
        "levels",
        "next_row",
        "num_computed",
        "trimmed",
    )

    def __init__(self, spec: DraftSpec, backend: Backend, hidden_size: int, slack: int) -> None:
        self._spec = spec
        self._backend = backend
        self.hidden_size = hidden_size
        self.chain: Chain = "exact"
        self.next_row = [0] * spec.num_heads
        self.first_valid = [0] * spec.num_heads
        self.first_output = [0] * spec.num_heads
        self.trimmed = [0] * spec.num_heads
        self.num_computed = 0  # rows of the trunk when last told
        self._saved: dict[int, RowBlock] = {}  # by first position: full blocks of level 0 that snapshots have
        # Level k is read from one row before the first that head k needs, and holds draft rows beyond the last. Level
        # 0 is saved from a block's first row on.
        capacities = [
            None if spec.window is None else (spec.num_heads - level) * spec.window + spec.max_depth + slack
            for level in range(spec.num_heads)
        ]
        if capacities[0] is not None:
            capacities[0] += BLOCK_SIZE
        self.levels = [HiddenTail(backend, hidden_size, capacity) for capacity in capacities]
        self._seed()

    @property
    def is_chained(self) -> bool:
        """True where a head reads the outputs of the one before it, so that rows run for a draft are final."""
        return self.chain == "exact" and not self._spec.is_recurrent

    def use_chain(self, chain: Chain) -> None:
        """Keys of one chain are no use to the other: a change starts the heads anew."""
        if chain != self.chain:
            self.chain = chain
            self.truncate_heads(0)
            self.first_valid = [0] * self._spec.num_heads

    def truncate(self, num_tokens: int) -> None:
        """The trunk holds rows below num_tokens only: nothing later counts here."""
        if num_tokens < self.num_computed:
            self._saved = {first: block for first, block in self._saved.items() if first + BLOCK_SIZE <= num_tokens}
        self.num_computed = num_tokens
        self.levels[0].truncate(num_tokens)
        if num_tokens == 0:
            self._seed()
        self.truncate_heads(num_tokens)

    def truncate_heads(self, num_tokens: int) -> None:
        self.next_row = [min(row, num_tokens) for row in self.next_row]
        for level in self.levels[1:]:
            level.truncate(num_tokens)

    def observe(self, start: int, hidden: Tensor, first_row: int, num_computed: int) -> None:
        """The trunk ran the rows from `start` on, `hidden` from first_row on; those below num_computed stay."""
        if start < self.num_computed:
            self.truncate(start)  # the sequence was rolled back since
        if num_computed > start:
            self.levels[0].store(start, hidden, first_row, num_computed - start)
        if num_computed < max(self.next_row) or num_computed <= start:
            self.truncate(num_computed)
        self.num_computed = num_computed

    def save(self) -> HiddenRows | None:
        """The trunk's rows that heads may want of a sequence that goes on from here; None: some are not known."""
        level = self.levels[0]
        first = -(-max(level.start, 0) // BLOCK_SIZE) * BLOCK_SIZE
        lowest = hidden_lowest(self._spec, first)
        if lowest is None or level.end != self.num_computed or lowest > level.end:
            return None
        blocks = [self._save_block(start) for start in range(first, level.end, BLOCK_SIZE)]
        self._saved = {block.first: block for block in blocks if block.rows.shape[0] == BLOCK_SIZE}
        return HiddenRows(tuple(blocks), lowest)

    def restore(self, hidden: HiddenRows, num_tokens: int) -> None:
        """Begin with the first num_tokens tokens of a sequence whose rows were saved. No head has run yet."""
        assert self.num_computed == 0, "rows are restored into an empty cache"
        level = self.levels[0]
        if hidden.blocks and hidden.blocks[0].first > 0:
            level.restart(hidden.blocks[0].first)
        for block in hidden.blocks:
            num_rows = min(block.rows.shape[0], num_tokens - block.first)
            if num_rows > 0:
                level.store(block.first, block.rows, 0, num_rows)
            if num_rows == BLOCK_SIZE:
                self._saved[block.first] = block
        self.num_computed = num_tokens

    def prepare(self, position: int, num_heads: int) -> None:
        """Before drafting from `position` with the first num_heads heads: those that cannot go on start anew."""
        for head, plan in enumerate(self.plan(position, num_heads)):
            self.first_output[head] = plan.first_output
            if plan.is_anew:
                self.next_row[head] = self.first_valid[head] = plan.row
                self.trimmed[head] = 0
                if self.is_chained and head + 1 < len(self.levels):
                    self.levels[head + 1].restart(plan.row)

    def plan(self, position: int, num_heads: int) -> list[HeadPlan]:
        """What `prepare` would do, from the last head back: what a head has to run, the one before it has to feed.

        The draft row of head k stands at position + k. A head that lags more than a window behind what is wanted of
        it starts anew, and so does one whose outputs were not kept.
        """
        plans: list[HeadPlan] = []
        is_recurrent = self._spec.is_recurrent
        for head in range(num_heads - 1, -1, -1):
            if self.is_chained and plans:
                first_output = plans[-1].row - 1
            else:
                first_output = position if is_recurrent else position + head
            can_continue = self._can_continue(head, first_output)
            row = self.next_row[head] if can_continue else self._first_seen(head, first_output)
            plans.append(HeadPlan(row, first_output, not can_continue))
        plans.reverse()
        return plans

    def can_draft(self, position: int) -> bool:
        """False where head 0 has no hidden row to start from: at position 0, or before the trunk has run a row here."""
        return self._first_row(0) <= position <= self.levels[0].end

    def keep_outputs(self, head: int, start: int, end: int, hidden: Tensor, first_row: int) -> None:
        """Head `head` of a chain ran the rows start .. end - 1. Those of use in `hidden` begin at its row first_row."""
        self.next_row[head] = end
        if head + 1 == len(self.levels):
            return
        if start < end:
            self.levels[head + 1].store(start, hidden, first_row, end - start)
        else:
            self.levels[head + 1].restart(end)

    def first_key(self, head: int) -> int:
        """No key of the head exists below."""
        return max(self.first_valid[head], self.trimmed[head])

    def first_exact(self, head: int) -> int:
        """The first row that would find every key that it sees."""
        first, window = self.first_key(head), self._spec.window
        return first if window is None or first <= self._first_row(head) else first + window - 1

    def trim(self, head: int, first_kept: int) -> None:
        """Blocks wholly below first_kept are given back."""
        self.trimmed[head] = max(self.trimmed[head], first_kept)

    def _can_continue(self, head: int, first_output: int) -> bool:
        """True if the outputs from first_output on are kept, or can be had from the keys there are."""
        row = self.next_row[head]
        if first_output < row:
            level = self.levels[head + 1]
            if level.start > first_output or level.end != row:
                return False
        return self.first_key(head) <= self._first_seen(head, max(first_output, row)) <= row

    def _first_seen(self, head: int, row: int) -> int:
        """The first key that `row` of a head sees."""
        first, window = self._first_row(head), self._spec.window
        return first if window is None else max(first, row - window + 1)

    def _first_row(self, head: int) -> int:
        """The first row that a head can run: in the trained chain rows p <= k do not exist, llama.cpp's has a row 0."""
        oldest = self.levels[0].start
        return max(oldest, 0) + 1 + head if self.chain == "exact" else oldest + 1

    def _save_block(self, start: int) -> RowBlock:
        """The rows from `start` on, at most a block: those of an earlier snapshot, where it has them."""
        block = self._saved.get(start)
        if block is None:
            level = self.levels[0]
            end = min(start + BLOCK_SIZE, level.end)
            block = RowBlock(start, self._backend.zeros(end - start, self.hidden_size))
            level.copy(start, end, block.rows, 0)
        return block

    def _seed(self) -> None:
        """Row -1 of level 0, which llama.cpp's chain reads, is zero."""
        self.levels[0].restart(-1)
        self.levels[0].store(-1, self._backend.zeros(1, self.hidden_size), 0, 1)
