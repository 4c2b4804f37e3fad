"""The longest end of a text that stands in it already, kept up to date token by token.

The suffix automaton of Blumer, Blumer, Haussler, Ehrenfeucht, Chen and Seiferas (The smallest automaton recognizing
the subwords of a text, 1985), built online: each state stands for the substrings that end at the same places, its
link for the longest of their suffixes that also ends elsewhere. So the link of the whole text's state is the longest
suffix that occurred before. That a language model's own text is worth such an index is shown by SuffixDecoding (Oliaro
et al., arXiv 2411.04975), which keeps suffix trees. This file knows token ids only, not what is done with a match.
"""

from array import array

MAX_REFRESHED = 8  # states told of their new occurrence for each token; a run of one token would have no end of them


class SuffixAutomaton:
    """Grows by `append`; a token costs a constant number of operations, over a whole text.

    match_length tokens at the end of the text, as many as possible, stand earlier in it too, where match_end is the
    position after them; the two may overlap. Of several places match_end is the latest that is known: a string that
    ended inside a longer match is not always told of it.
    """

    __slots__ = (
        "_branches",
        "_ends",
        "_last",
        "_lengths",
        "_links",
        "_targets",
        "_tokens",
        "match_end",
        "match_length",
    )

    def __init__(self) -> None:
        self.match_length = 0
        self.match_end = 0
        # A state's first transition stands in two arrays, further ones in a dict: of a source file's states only one
        # in seven has any. A dict for every state takes four times the memory, lists for arrays twice.
        self._tokens = array("i", [-1])
        self._targets = array("i", [-1])
        self._branches: dict[int, dict[int, int]] = {}
        self._lengths = array("i", [0])  # of the longest string of the state
        self._links = array("i", [-1])
        self._ends = array("i", [0])  # position after a known occurrence of the state's strings
        self._last = 0  # the state of the whole text

    @property
    def num_tokens(self) -> int:
        return self._lengths[self._last]

    @property
    def num_states(self) -> int:
        return len(self._lengths)

    def append(self, token_id: int) -> None:
        num_tokens = self._lengths[self._last] + 1
        state, self._last = self._last, self._new(num_tokens, num_tokens)
        state, target = self._connect(state, token_id, self._last)
        if state < 0:
            link = 0
        elif self._lengths[state] + 1 == self._lengths[target]:
            link = target
        else:
            link = self._split(state, token_id, target)
        self._links[self._last] = link
        self.match_length, self.match_end = self._lengths[link], self._ends[link]
        self._refresh(link, num_tokens)

    def _new(self, length: int, end: int) -> int:
        self._tokens.append(-1)
        self._targets.append(-1)
        self._links.append(0)
        self._ends.append(end)
        self._lengths.append(length)
        return len(self._lengths) - 1

    def _connect(self, state: int, token_id: int, new: int) -> tuple[int, int]:
        """Lead token_id from `state`, and from all it links to, to `new`: up to the first that has such a transition.

        Returns that state and where it leads; (-1, -1) if there is none.
        """
        tokens, links, branches = self._tokens, self._links, self._branches
        while state >= 0:
            first = tokens[state]
            if first == token_id:
                return state, self._targets[state]
            if first < 0:
                tokens[state] = token_id
                self._targets[state] = new
            else:
                target = branches.setdefault(state, {}).setdefault(token_id, new)
                if target != new:
                    return state, target
            state = links[state]
        return -1, -1

    def _split(self, state: int, token_id: int, target: int) -> int:
        """The shorter strings of `target`, those that `state` leads to, get a state of their own."""
        tokens, targets, links, branches = self._tokens, self._targets, self._links, self._branches
        clone = self._new(self._lengths[state] + 1, self._ends[target])
        tokens[clone], targets[clone] = tokens[target], targets[target]
        if target in branches:
            branches[clone] = branches[target].copy()
        links[clone], links[target] = links[target], clone
        while state >= 0:
            if tokens[state] == token_id:
                if targets[state] != target:
                    break
                targets[state] = clone
            else:
                branch = branches[state]
                if branch[token_id] != target:
                    break
                branch[token_id] = clone
            state = links[state]
        return clone

    def _refresh(self, state: int, end: int) -> None:
        ends, links = self._ends, self._links
        for _ in range(MAX_REFRESHED):
            if state <= 0:
                break
            ends[state] = end
            state = links[state]
