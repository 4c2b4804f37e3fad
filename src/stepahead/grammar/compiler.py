"""Grammars in llguidance's words, compiled in time that is bounded, and kept for the next request.

Agents send the same tools and schemas with every turn. Owns the vocabulary's trie, the threads that compile and the
grammars that were compiled. Must not know what a grammar is for.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from stepahead.grammar.grammar_error import GrammarError
from stepahead.grammar.state import CompiledGrammar, GrammarState, reason
from stepahead.grammar.vocabulary import GrammarVocabulary, build_trie, end_ids_of
from stepahead.tokenizer import Tokenizer

Result = TypeVar("Result")

MAX_CACHED = 64
MAX_LEXER_STATES = 50_000
"""A kilobyte or two each, for a grammar: what a text of it may cost in memory."""

LEXER_FUEL = 300_000
"""About a unit for each character of a schema's names and values; llguidance's own limit is three times as large."""

STACK_BYTES = 128 * 2**20
"""Of the threads that compile: llguidance recurses, and where its stack ends, so does the process."""


class Compiler:
    """Compiles for one model. Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, seconds: float) -> None:
        """seconds: what a compilation may take, waiting included."""
        self.seconds = seconds
        self.vocab_size = vocab_size
        self.end_ids = end_ids_of(tokenizer, vocab_size)
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._trie_lock = threading.Lock()
        self._trie: LLTokenizer | None = None
        self._cached: OrderedDict[bytes, GrammarState] = OrderedDict()
        self._threads = _threads_of(2, STACK_BYTES)

    @property
    def trie(self) -> LLTokenizer:
        """Built once, which takes about a second for 128 K tokens."""
        with self._trie_lock:
            if self._trie is None:
                self._trie = build_trie(GrammarVocabulary(self._tokenizer, self.vocab_size))
            return self._trie

    def compile(self, text: str, warnings: tuple[str, ...] = ()) -> GrammarState:
        """Where texts of a grammar begin. text: Lark, or a JSON list of grammars. Raises GrammarError."""
        key = hashlib.sha256("\0".join((text, *warnings)).encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            found = self._cached.get(key)
            if found is not None:
                self._cached.move_to_end(key)
                return found

        def build() -> GrammarState:
            grammar = CompiledGrammar(self._matcher(text), self.vocab_size, self.end_ids)
            state = GrammarState.first(grammar, warnings)
            state.probe()
            grammar.compiled_anew = lambda: self.in_time(lambda: self._matcher(text))
            with self._lock:  # also where nobody waits for it any more: the next one finds it
                self._cached[key] = state
                if len(self._cached) > MAX_CACHED:
                    self._cached.popitem(last=False)
            return state

        return self.in_time(build)

    def error_of(self, text: str) -> str:
        """What is wrong with a grammar; "" if nothing is. Takes as long as it takes."""
        matcher = LLMatcher(self.trie, text, log_level=0, limits=self._limits())
        return reason(matcher.get_error()) if matcher.is_error() else ""

    def in_time(self, work: Callable[[], Result]) -> Result:
        """Its result. Raises GrammarError if that takes too long; it is then finished without anyone waiting."""
        trie = self.trie  # not in the grammar's time
        assert trie is not None
        future: Future[Result] = self._threads.submit(work)
        try:
            return future.result(self.seconds)
        except FutureTimeoutError:
            future.cancel()
            raise GrammarError(
                f"the grammar takes longer than {self.seconds:g} s to prepare: make it simpler, or try again later"
            ) from None

    def _matcher(self, text: str) -> LLMatcher:
        matcher = LLMatcher(self.trie, text, log_level=0, limits=self._limits())
        if matcher.is_error():
            raise GrammarError(f"the grammar cannot be used: {reason(matcher.get_error())}")
        return matcher

    def _limits(self) -> LLParserLimits:
        return LLParserLimits(initial_lexer_fuel=LEXER_FUEL, max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)


def _threads_of(count: int, stack_bytes: int) -> ThreadPoolExecutor:
    """Threads that have been started, since their stack is what new threads get at that moment."""
    executor, started = ThreadPoolExecutor(count, thread_name_prefix="grammar"), threading.Barrier(count + 1)
    before = threading.stack_size(stack_bytes)
    try:
        for _ in range(count):
            executor.submit(started.wait)
    finally:
        threading.stack_size(before)
    started.wait()
    return executor
