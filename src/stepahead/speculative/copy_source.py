"""Where a text is being copied from, followed token by token, through the changes that are made on the way.

An edited copy agrees with its source, but for the edits. So what is known is where the next token should stand in the
source; where it does not, the copy is looked for again close to there, before any three tokens have agreed. A change
that lies between two stretches of agreement (a name replaced by another) is remembered, and expected the next time.

Positions only: this file finds no matches of its own far away (speculative/suffix_automaton.py does), and judges none.
"""

from dataclasses import dataclass

MIN_MATCH = 3  # tokens that must agree before a place is taken for a source
MIN_CONFIRMED = 4  # that must agree after a place was taken before it, and what was replaced there, is believed
MAX_REPLACED = 6  # tokens of a change that is remembered
MAX_LOST = 16  # tokens after which a copy that broke off is no longer looked for
BEHIND, AHEAD = 8, 16  # how far from where it broke off


@dataclass(frozen=True, slots=True)
class Replacement:
    """Where the source reads old_ids, the copy had new_ids. Neither is empty, and they begin differently."""

    old_ids: list[int]
    new_ids: list[int]


@dataclass(frozen=True, slots=True)
class Break:
    """The first token of a copy that was not the source's: where it stands, and where the source's does."""

    position: int
    source: int


class CopySource:
    """Follows `text`, a list that grows. `length` tokens at its end agree with the source, 0: there is none."""

    __slots__ = (
        "_break",
        "_change",
        "_num_followed",
        "_num_replaced",
        "_pending",
        "_position",
        "_rules",
        "_text",
        "length",
    )

    def __init__(self, text: list[int]) -> None:
        self.length = 0
        self._text = text
        self._position = 0  # where the next token stands in the source
        self._num_followed = 0  # tokens that agreed since the source was taken
        self._break: Break | None = None  # the last one, until it is too long ago
        self._rules: dict[int, Replacement] = {}  # by the first old id
        self._pending: Replacement | None = None  # seen, not yet confirmed by what follows it
        self._change: Replacement | None = None  # the one that stands at _position, and
        self._num_replaced = 0  # how many of its new ids the text already has

    def follow(self, position: int, match_length: int, match_end: int) -> None:
        """text[position] is new; match_length tokens up to it stand in the text before match_end, too."""
        token_id = self._text[position]
        if self.length and token_id == self._expected():
            self._advance()
        elif self.length and self._num_replaced == 0 and token_id == self._text[self._position]:
            del self._rules[token_id]  # this time nothing was replaced
            self._change = None
            self._advance()
        else:
            if self.length:
                self._lose(position)
            self._resume(position + 1, match_length)
        if not self.length and match_length >= MIN_MATCH:
            self._take(match_end, match_length, position + 1)

    def read(self, limit: int) -> list[int]:
        """What comes next, if the copy goes on: `limit` tokens. A source that reaches the text's end repeats itself."""
        text, num_tokens = self._text, len(self._text)
        position, change, num_replaced = self._position, self._change, self._num_replaced
        ids: list[int] = []
        while len(ids) < limit:
            if change is not None:
                ids += change.new_ids[num_replaced:]
                position += len(change.old_ids)
                num_replaced = 0
            else:
                ids.append(text[position] if position < num_tokens else ids[position - num_tokens])
                position += 1
            change = self._change_at(position)
        return ids[:limit]

    def _expected(self) -> int:
        if self._change is not None:
            return self._change.new_ids[self._num_replaced]
        return self._text[self._position]

    def _advance(self) -> None:
        self.length += 1
        self._num_followed += 1
        if self._num_followed == MIN_CONFIRMED and self._pending is not None:
            self._rules[self._pending.old_ids[0]] = self._pending
        if self._change is None:
            self._move(self._position + 1)
        else:
            self._num_replaced += 1
            if self._num_replaced == len(self._change.new_ids):
                self._move(self._position + len(self._change.old_ids))

    def _move(self, position: int) -> None:
        self._position = position
        self._change = self._change_at(position)
        self._num_replaced = 0

    def _change_at(self, position: int) -> Replacement | None:
        if not self._rules or position >= len(self._text):
            return None
        rule = self._rules.get(self._text[position])
        if rule is None or self._text[position : position + len(rule.old_ids)] != rule.old_ids:
            return None
        return rule

    def _lose(self, position: int) -> None:
        """text[position] is not what the source has, and a change that was under way is not what came.

        A place that had yet to be confirmed was no source: the copy that broke off before is still looked for.
        """
        if self._num_followed >= MIN_CONFIRMED:
            self._break = Break(position - self._num_replaced, self._position)
        self.length = 0

    def _resume(self, num_tokens: int, match_length: int) -> None:
        """Look for the copy that broke off near where it did: the place that agrees longest with the text's end.

        A longer match elsewhere is preferred.
        """
        if self._break is None:
            return
        num_lost = num_tokens - self._break.position
        if num_lost > MAX_LOST:
            self._break = None
            return
        length, position = self._nearest(num_tokens, self._break.source, num_lost)
        if length and not (match_length >= MIN_MATCH and match_length > length):
            self._take(position, length, num_tokens)

    def _nearest(self, num_tokens: int, source: int, num_lost: int) -> tuple[int, int]:
        """Length and end of the best place; of equal ones that where as many tokens were replaced as came instead."""
        text = self._text
        last_id = text[num_tokens - 1]
        best = (0, 0, 0)
        for position in range(max(1, source - BEHIND), min(num_tokens - 1, source + AHEAD) + 1):
            if text[position - 1] == last_id:
                distance = abs(position - source - num_lost)
                best = max(best, (self._common_length(position, num_tokens), -distance, position))
        return best[0], best[2]

    def _common_length(self, position: int, num_tokens: int) -> int:
        text, length = self._text, 1
        while length < min(MIN_CONFIRMED, position) and text[position - 1 - length] == text[num_tokens - 1 - length]:
            length += 1
        return length

    def _take(self, position: int, length: int, num_tokens: int) -> None:
        self.length = length
        self._num_followed = 0
        self._pending = None
        if self._break is not None:
            common = min(length, num_tokens - self._break.position)
            self._pending = self._replacement(self._break, position - common, num_tokens - common)
        self._move(position)

    def _replacement(self, broken: Break, source_end: int, end: int) -> Replacement | None:
        """What was replaced since the copy broke off, if so little that it may be seen again."""
        num_old, num_new = source_end - broken.source, end - broken.position
        if not (0 < num_old <= MAX_REPLACED and 0 < num_new <= MAX_REPLACED):
            return None
        return Replacement(self._text[broken.source : source_end], self._text[broken.position : end])
