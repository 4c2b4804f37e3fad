"""Token ids to text, one token at a time: never half a character, never a part of a stop string.

Owns the state of one stream. Must not know how tokens are made or what ends a generation but stop strings.
"""

import codecs
from collections.abc import Sequence

from stepahead.tokenizer.stop_strings import StopStrings
from stepahead.tokenizer.tokenizer import Tokenizer


class Detokenizer:
    """The text of one growing token sequence.

    Without a match, the pieces of all `push` and the final `flush` joined are `Tokenizer.decode` of the whole
    sequence with the same `skip_special`. Text before a stop string is emitted, the stop string is not.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True, stop: str | Sequence[str] = ()) -> None:
        """`skip_special`: control tokens give no text (a stop string can then not match theirs).

        Raises RequestError for a stop string that is empty or not text.
        """
        self._tokenizer = tokenizer
        self._skipped = tokenizer.control_ids if skip_special else frozenset()
        # Replaces invalid bytes as bytes.decode(errors="replace") of the whole would, and waits for unfinished ones.
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = StopStrings(stop)

    @property
    def matched_stop(self) -> str | None:
        """The stop string that ended the text."""
        return self._stops.matched

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended the text: true from the `push` of the token that completed it."""
        return self._stops.matched is not None

    def push(self, token_id: int) -> str:
        """Add a token; returns the text that can be emitted now, which may be empty.

        After a stop string nothing more is emitted. Raises RequestError for an id outside the vocabulary.
        """
        data = self._tokenizer.token_bytes(token_id)
        if token_id in self._skipped:
            return ""
        return self._stops.push(self._decoder.decode(data))

    def flush(self) -> str:
        """What was held back, at the end of the sequence: an unfinished character becomes U+FFFD."""
        last = self._stops.push(self._decoder.decode(b"", final=True))
        return last if self.stopped else last + self._stops.flush()
