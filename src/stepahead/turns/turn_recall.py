"""Turns of a rendered conversation that the model wrote itself, found again, so that its own tokens stand for them.

A turn is taken for one of the model's only where all that comes before it is, to the token, the prompt that the model
answered then, and where its rendering, read as an answer of the model's is read, says what that answer said. So nothing
changes but how the same turn is cut into tokens and spaced, and a template that leaves something out, such as reasoning
before the last question, is followed.
"""

import hashlib
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from stepahead.tokenizer import Tokenizer
from stepahead.turns.said import said_by
from stepahead.turns.tool import Tool
from stepahead.turns.turn_format import TurnFormat
from stepahead.turns.turn_memory import Answers, FinishedTurn, TurnMemory
from stepahead.turns.turn_text import TurnText


@dataclass(frozen=True, slots=True)
class Recalled:
    """parts: text to be encoded each for itself, and tokens. place: the digest of the whole, for TurnMemory."""

    parts: tuple["str | array[int]", ...]
    place: bytes


class TurnRecall:
    """For one model. Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer, turn_format: TurnFormat, memory: TurnMemory) -> None:
        self._tokenizer = tokenizer
        self._format = turn_format
        self._memory = memory
        ends = sorted((tokenizer.token_text(token_id) for token_id in tokenizer.end_ids), key=len, reverse=True)
        self._end = re.compile("|".join(map(re.escape, ends)) or r"(?!)")

    def recalled(self, text: str, opening: str, mark: str | None, tools: Sequence[Tool], salt: str) -> Recalled:
        """text: a rendered conversation, with `mark` as tokenizer/protected.py puts it. opening: what the template
        writes before an answer; "" if nothing. salt: whose conversation it is; others' turns are not looked at."""
        place = hashlib.sha256(salt.encode("utf-8", "surrogatepass") + b"\xff")
        parts: list[str | array[int]] = []
        used: list[bytes] = []
        start = hashed = 0
        while opening and (found := text.find(opening, hashed)) >= 0:
            begin = found + len(opening)
            place.update(text[hashed:begin].encode("utf-8", "surrogatepass"))
            hashed = begin
            answers = self._memory.at(place.digest())
            end = None if answers is None else self._end.search(text, begin)
            if answers is None or end is None:
                continue
            token_ids = self._matching(answers, text[begin : end.start()], opening, mark, tools)
            if token_ids is None:
                continue
            used.append(place.digest())
            parts += [text[start:begin], token_ids]
            place.update(b"\xff" + len(token_ids).to_bytes(8, "little") + token_ids.tobytes())  # no text has that byte
            start = hashed = end.start()
        place.update(text[hashed:].encode("utf-8", "surrogatepass"))
        self._memory.note_use(used)
        return Recalled((*parts, text[start:]), place.digest())

    def _matching(
        self, answers: Answers, rendering: str, opening: str, mark: str | None, tools: Sequence[Tool]
    ) -> "array[int] | None":
        """The tokens of the answer that this is a rendering of. Most are asked for again with every later turn."""
        read_with = "\0".join((rendering, *(tool.name for tool in tools)))
        digest = hashlib.sha256(read_with.encode("utf-8", "surrogatepass")).digest()
        if answers.read is None or answers.read[0] != digest:
            answers.read = digest, self._found(answers, rendering, opening, mark, tools)
        turn = answers.read[1]
        return None if turn is None else turn.token_ids

    def _found(
        self, answers: Answers, rendering: str, opening: str, mark: str | None, tools: Sequence[Tool]
    ) -> FinishedTurn | None:
        turns = answers.turns
        token_ids = self._tokenizer.encode(rendering, add_bos=False, mark=mark)
        as_array = array("I", token_ids)
        same = next((turn for turn in turns if turn.token_ids == as_array), None)
        if same is not None:
            return same
        said = self._said_by(token_ids, opening, tools)
        return next((turn for turn in turns if turn.said == said), None)

    def _said_by(self, token_ids: Sequence[int], opening: str, tools: Sequence[Tool]) -> bytes:
        text = TurnText(
            self._tokenizer,
            self._format,
            tools,
            starts_in_reasoning=self._format.starts_in_reasoning(opening),
            parses_calls=True,
            is_parallel=True,
            make_call_id=str,
            buffers_calls=True,
        )
        for token_id in token_ids:
            text.push(token_id)
        text.flush()
        return said_by(text.take_events())
