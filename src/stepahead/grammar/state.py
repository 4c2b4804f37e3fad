"""Where a text stands in its grammar: states are values, and one matcher is moved between them.

Drafts fork a text and are mostly taken back, at positions that lie close together. So the states of one text share a
matcher (llguidance.LLMatcher), which rolls back to what two states have in common and goes on from there: a few
microseconds, where a copy takes three times as long. Masks of the last states are kept: heads and trunk ask for the
same ones. A matcher that is no longer needed serves the next text of the same grammar, with all that it has learned
about the vocabulary. All matchers of a grammar learn together, and what they have learned is bounded: at the end of
it the grammar is compiled anew, since what other texts needed must not end this one.

One thread at a time may use the states of one grammar.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher

from stepahead.grammar.grammar_error import GrammarError

MAX_IDLE = 4
"""Matchers kept for later texts of a grammar."""

MAX_MASKS = 24
"""Masks kept for a text: more than a step drafts."""

MAX_KEYS = 4096
"""States of a text that are remembered by their tokens: more than it looks back to."""


MAX_RENEWALS = 2
"""Of a text. The second is for what another text, which needs too much, has spoilt."""


def reason(error: str) -> str:
    """The first line of what llguidance says, which is what is wrong; the rest is about llguidance."""
    line = error.strip().split("\n", 1)[0]
    return line if len(line) <= 200 else f"{line[:197]}..."


class CompiledGrammar:
    """A grammar that llguidance accepts, and the matchers of its texts."""

    def __init__(self, matcher: LLMatcher, vocab_size: int, end_ids: frozenset[int]) -> None:
        self.vocab_size = vocab_size
        self.end_ids = end_ids
        self.generation = 0  # of what the matchers have learned
        self.compiled_anew: Callable[[], LLMatcher] | None = None  # makes one that knows nothing of the others
        self._template = matcher
        self._idle: list[LLMatcher] = []

    def take(self) -> LLMatcher:
        """A matcher at the beginning of the text."""
        try:
            return self._idle.pop()
        except IndexError:
            return self._template.deep_copy()

    def give_back(self, matcher: LLMatcher, generation: int) -> None:
        is_known = generation == self.generation
        if is_known and len(self._idle) < MAX_IDLE and matcher.reset() and not matcher.is_error():
            self._idle.append(matcher)

    def forget(self, generation: int) -> bool:
        """Let the next matchers begin anew, unless they do so already; False where they cannot. Raises GrammarError if
        it takes too long."""
        if generation == self.generation:
            if self.compiled_anew is None:
                return False
            self._template = self.compiled_anew()
            self._idle.clear()
            self.generation += 1
        return True


class _Mask:
    """What must not come next, as the shorter list of ids where one is short, which is applied in no time."""

    __slots__ = ("_allowed", "_forbidden", "allowed_id")

    def __init__(self, bits: npt.NDArray[np.uint32], vocab_size: int) -> None:
        forbidden = np.unpackbits(bits.view(np.uint8), count=vocab_size, bitorder="little") == 0
        num_forbidden = int(np.count_nonzero(forbidden))
        short = vocab_size // 8
        self._allowed = np.flatnonzero(~forbidden) if vocab_size - num_forbidden <= short else None
        self._forbidden: npt.NDArray[Any] = np.flatnonzero(forbidden) if num_forbidden <= short else forbidden
        self.allowed_id = int(forbidden.argmin()) if num_forbidden < vocab_size else None  # any one

    def apply(self, logits: npt.NDArray[np.float32]) -> None:
        if self._allowed is None:
            logits[self._forbidden] = -np.inf
            return
        kept = logits[self._allowed]
        logits.fill(-np.inf)
        logits[self._allowed] = kept


class _Text:
    """One text's matcher, where it stands, and what was found out on the way. States have keys: equal ones equal."""

    __slots__ = (
        "_finished", "_generation", "_keys", "_masks", "_next_key", "_num_renewals", "_trail", "grammar", "matcher",
    )  # fmt: skip

    def __init__(self, grammar: CompiledGrammar) -> None:
        self.grammar = grammar
        self.matcher = grammar.take()
        self._generation = grammar.generation
        self._num_renewals = 0
        self._trail = [0]  # keys of the states from the beginning to where the matcher stands
        self._next_key = 1
        self._keys: dict[tuple[int, int], int] = {}
        self._finished: dict[int, bool] = {}
        self._masks: dict[int, _Mask] = {}

    def __del__(self) -> None:
        self.grammar.give_back(self.matcher, self._generation)

    def key(self, before: int, token_id: int) -> int:
        """Of the state that one token leads to."""
        found = self._keys.get((before, token_id))
        if found is None:
            if len(self._keys) >= MAX_KEYS:
                self._keys.clear()
                self._finished.clear()
            found = self._keys[before, token_id] = self._next_key
            self._next_key += 1
        return found

    def move(self, state: "GrammarState") -> LLMatcher:
        """The matcher, standing at `state`. Raises GrammarError if a token on the way breaks the grammar."""
        while True:
            try:
                return self._moved(state)
            except GrammarError:
                if not self._renew():
                    raise

    def _renew(self) -> bool:
        """Begin again with a matcher that knows nothing; False where that did not help."""
        if self._num_renewals >= MAX_RENEWALS or not self.grammar.forget(self._generation):
            return False
        self.matcher, self._trail = self.grammar.take(), [0]
        self._generation = self.grammar.generation
        self._num_renewals += 1
        return True

    def _moved(self, state: "GrammarState") -> LLMatcher:
        trail, token_ids, keys = self._trail, list[int](), list[int]()
        while state.depth >= len(trail) or trail[state.depth] != state.key:
            token_ids.append(state.token_id)
            keys.append(state.key)
            assert state.parent is not None, "all states begin at key 0"
            state = state.parent
        back = len(trail) - 1 - state.depth
        if back:
            if not self.matcher.rollback(back):
                raise GrammarError(f"the grammar cannot be followed further: {self._why()}")
            del trail[-back:]
        if token_ids:
            token_ids.reverse()
            keys.reverse()
            taken = self.matcher.try_consume_tokens(token_ids)
            trail += keys[:taken]
            if taken < len(token_ids):
                if self.matcher.is_error():
                    raise GrammarError(f"the grammar cannot be followed further: {self._why()}")
                raise GrammarError(f"token id {token_ids[taken]} breaks the grammar at token {len(trail) - 1}")
        return self.matcher

    def mask(self, state: "GrammarState") -> _Mask:
        """Raises GrammarError where that takes too long to find out."""
        found = self._masks.get(state.key)
        if found is None:
            found = self._mask(state)
            while found is None and self._renew():
                found = self._mask(state)
            if found is None:
                raise GrammarError(f"the grammar cannot be followed further: {self._why()}")
            if len(self._masks) >= MAX_MASKS:
                del self._masks[next(iter(self._masks))]
            self._masks[state.key] = found
        return found

    def _mask(self, state: "GrammarState") -> _Mask | None:
        """None where it cannot be had."""
        matcher = self.move(state)
        is_finished = matcher.is_stopped()
        bits = np.empty((self.grammar.vocab_size + 31) // 32, dtype=np.uint32)
        matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        return _Mask(bits, self.grammar.vocab_size) if is_finished or not matcher.is_stopped() else None

    def is_finished(self, state: "GrammarState") -> bool:
        found = self._finished.get(state.key)
        if found is None:
            found = self._finished[state.key] = self.move(state).is_stopped()
        return found

    def _why(self) -> str:
        return reason(self.matcher.get_error()) or self.matcher.stop_reason()


class GrammarState:
    """A Grammar (engine/params.py). An end token may come where the text may end, and ends it."""

    __slots__ = ("_is_ended", "_text", "depth", "key", "parent", "token_id", "warnings")

    def __init__(self, text: _Text, parent: "GrammarState | None" = None, token_id: int = -1) -> None:
        self._text = text
        self._is_ended = token_id in text.grammar.end_ids
        self.parent = parent
        self.token_id = token_id
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.key: int = 0 if parent is None else text.key(parent.key, token_id)
        self.warnings: tuple[str, ...] = ()  # of the first state: what could not be enforced, and was left out

    @classmethod
    def first(cls, grammar: CompiledGrammar, warnings: tuple[str, ...] = ()) -> "GrammarState":
        """Where texts begin; any number of them."""
        state = cls(_Text(grammar))
        state.warnings = warnings
        return state

    def probe(self) -> None:
        """Raises GrammarError for a grammar that has no text, or that is too much for its limits at once."""
        allowed_id = self._text.mask(self).allowed_id
        if allowed_id is None:
            raise GrammarError("the grammar allows no text at all")
        if allowed_id not in self._text.grammar.end_ids:
            state = self.advance(allowed_id)
            state._text.move(state)

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        if self._is_ended:
            logits[:] = -np.inf
        else:
            self._text.mask(self).apply(logits)

    def advance(self, token_id: int) -> "GrammarState":
        # Each text that begins here has a matcher of its own.
        text = _Text(self._text.grammar) if self.parent is None else self._text
        return GrammarState(text, self, token_id)

    @property
    def is_finished(self) -> bool:
        return self._is_ended or self._text.is_finished(self)

    def forced_ids(self) -> Sequence[int]:
        """What must come next: the tokens that the masks leave alone, one after another."""
        return () if self.is_finished else self._text.move(self).compute_ff_tokens()

    def num_allowed(self, token_ids: Sequence[int]) -> int:
        """How many of `token_ids` may come next, one after another; some more than the masks allow, never fewer."""
        if self.is_finished:
            return 0
        ends = self._text.grammar.end_ids
        count = next((at for at, token_id in enumerate(token_ids) if token_id in ends), len(token_ids))
        valid = self._text.move(self).validate_tokens(list(token_ids[:count])) if count else 0
        return valid + (valid == count < len(token_ids))
