"""What the heads hold of one cached sequence: how far each has run, and the hidden rows that the next one reads.

Head k's row at position p takes token x_p and the row p - 1 of level k; level 0 is the trunk's hidden rows, level
k + 1 the outputs of head k. In the trained chain (SGLang, Step-3.5 MTP) row p of head k so depends on the trunk up to
p - k - 1 alone: rows written while drafting stay when their tokens are accepted, and nothing is ever run again. In
llama.cpp's chain (PR #24340) every head reads level 0, where row -1 is zero, and only draft rows are chained; those
are run again once the trunk has seen their tokens. A single head that is reused for every draft token works likewise.

Heads are filled lazily. A sliding head sees `window` keys, so the last head needs its last window of rows, and each
head before it one window more: its outputs are the next one's inputs, and only those with a whole window behind them
are what a full prefill gives.

This file owns these positions; it knows nothing about passes, blocks or sampling.
"""

from collections.abc import Sequence as Seq

from stepahead.backends.base import Backend, Tensor
from stepahead.models.model import Chain, DraftSpec
from stepahead.speculative.hidden_tail import HiddenTail


class HeadCache:
    """The state of all heads for one SequenceKV.

    next_row[k]: the first row that head k still has to run. first_valid[k]: the row where it last started; no key
    below exists for it. trimmed[k]: nor below this one, whose blocks were given back.
    """

    __slots__ = (
        "_backend",
        "_hidden_size",
        "_spec",
        "chain",
        "first_valid",
        "levels",
        "next_row",
        "num_computed",
        "trimmed",
    )

    def __init__(self, spec: DraftSpec, backend: Backend, hidden_size: int, slack: int) -> None:
        self._spec = spec
        self._backend = backend
        self._hidden_size = hidden_size
        self.chain: Chain = "exact"
        self.next_row = [0] * spec.num_heads
        self.first_valid = [0] * spec.num_heads
        self.trimmed = [0] * spec.num_heads
        self.num_computed = 0  # rows of the trunk when last told
        # Level k is read from one row before the first that head k needs, and holds draft rows beyond the last.
        capacities = [
            None if spec.window is None else (spec.num_heads - level) * spec.window + spec.max_depth + slack
            for level in range(spec.num_heads)
        ]
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
        self.truncate(num_computed)

    def prepare(self, position: int, num_heads: int) -> None:
        """Before drafting from `position` with the first num_heads heads: a head that lags too far starts anew.

        In the trained chain those after it follow, and the one before it too, if it alone can give back the rows that
        are missed.
        """
        firsts = [self.first_row(head, position) for head in range(num_heads)]
        anew = {head for head in range(num_heads) if not self._can_continue(head, firsts[head])}
        if self.is_chained:
            start = min(anew, default=num_heads)
            while start > 0 and not self._has_inputs([*self.next_row[:start], *firsts[start:]]):
                start -= 1
            anew = set(range(start, num_heads))
        for head in anew:
            self.next_row[head] = self.first_valid[head] = firsts[head]
            self.trimmed[head] = 0

    def can_draft(self, position: int) -> bool:
        """False where head 0 has no hidden row to start from: at position 0, or before the trunk has run a row here."""
        return self.first_row(0, position) <= position

    def first_row(self, head: int, position: int) -> int:
        """The first row of `head` that a draft from `position` depends on, if drafts may be as long as they ever get.

        The draft row of head k stands at position + k and sees `window` keys.
        """
        window, num_heads = self._spec.window, self._spec.num_heads
        # Rows p <= k do not exist in the trained chain; llama.cpp's has a row 0.
        oldest = self.levels[0].start
        natural = max(oldest, 0) + 1 + head if self.chain == "exact" else oldest + 1
        if window is None:
            return natural
        num_windows = num_heads - head if self.is_chained else 1
        last_draft = num_heads if self.is_chained else head + 1
        return max(natural, position + last_draft - num_windows * window)

    def trim(self, head: int, first_kept: int) -> None:
        """Blocks wholly below first_kept are given back."""
        self.trimmed[head] = max(self.trimmed[head], first_kept)

    def _can_continue(self, head: int, first: int) -> bool:
        """True if the rows run so far reach back far enough, and on to where they are needed."""
        row, start, window = self.next_row[head], self.first_valid[head], self._spec.window
        if row < first or start > first:
            return False
        return window is None or self.trimmed[head] <= max(start, row - window + 1)

    def _has_inputs(self, rows: Seq[int]) -> bool:
        """True if every head that goes on from rows[head] finds the row before it: kept, or run now by the head before.

        A rollback may leave a level without rows, for those before its last `capacity` are gone.
        """
        return all(
            rows[head - 1] < rows[head] or self.levels[head].start < rows[head] <= self.levels[head].end
            for head in range(1, len(rows))
        )

    def _seed(self) -> None:
        """Row -1 of level 0, which llama.cpp's chain reads, is zero."""
        self.levels[0].restart(-1)
        self.levels[0].store(-1, self._backend.zeros(1, self._hidden_size), 0, 1)
