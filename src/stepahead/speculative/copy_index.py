"""What one sequence remembers in order to copy from itself: an index of its tokens, and the place that is copied from.

Both trail behind the sequence and catch up a bounded number of tokens at a time, so that a long prompt never holds up
a step. Only output is followed: where a prompt repeats itself says little about what is done with it.
"""

from stepahead.engine.request import Sequence
from stepahead.speculative.copy_source import CopySource
from stepahead.speculative.suffix_automaton import SuffixAutomaton

MAX_INDEXED = 2048  # tokens a call: about 3 ms


class CopyIndex:
    """Of one sequence, whose tokens are only ever added to."""

    __slots__ = ("_automaton", "_num_prompt", "_source", "_text")

    def __init__(self, sequence: Sequence) -> None:
        self._text = sequence.token_ids
        self._num_prompt = sequence.num_prompt_tokens
        self._automaton = SuffixAutomaton()
        self._source = CopySource(self._text)

    @property
    def match_length(self) -> int:
        """Tokens at the text's end that agree with the place copied from; 0: there is none."""
        return self._source.length

    def catch_up(self) -> bool:
        """Index what the text has gained; False if there is more of it than a step has time for."""
        text, automaton = self._text, self._automaton
        start = automaton.num_tokens
        end = min(len(text), start + MAX_INDEXED)
        for position in range(start, end):
            automaton.append(text[position])
            if position >= self._num_prompt - 1:
                self._source.follow(position, automaton.match_length, automaton.match_end)
        return end == len(text)

    def read(self, limit: int) -> list[int]:
        """The tokens that come next if the copy goes on; only after catch_up is done and match_length is not 0."""
        return self._source.read(limit)
