"""Where an answer's reasoning ends. Works on ids: `</think>` may be a control token, which leaves no text."""

from collections.abc import Sequence

from stepahead.tokenizer.tokenizer import Tokenizer

BEGIN, END = "<think>", "</think>"


def split_reasoning(tokenizer: Tokenizer, token_ids: Sequence[int]) -> tuple[str | None, str]:
    """(reasoning, content) of an answer whose prompt opened the reasoning; (None, all of it) if it never ended.

    Of the whitespace beside `</think>` one newline on either side belongs to the delimiter, as Step's template writes
    it; the rest is kept, so that a turn is rendered again as it was said.
    """
    end = tokenizer.id_of(END)
    if end is None or end not in token_ids:
        text = tokenizer.decode(token_ids, skip_special=True)
        if END not in text:
            return None, text
        reasoning, content = text.split(END, 1)
    else:
        at = list(token_ids).index(end)
        reasoning = tokenizer.decode(token_ids[:at], skip_special=True)
        content = tokenizer.decode(token_ids[at + 1 :], skip_special=True)
    reasoning = reasoning.removeprefix(BEGIN).removeprefix("\n").removesuffix("\n")
    return reasoning, content.removeprefix("\n")
