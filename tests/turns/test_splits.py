"""Where a turn's text is cut has no influence on its events, over a corpus of turns as models write them and worse."""

import random

import pytest
from turn_samples import CORPUS, MARKS, gathered, parse, with_tokens

from stepahead.turns.event import CallArguments, ContentText, ReasoningText

CASES = pytest.mark.parametrize(
    ("turn_format", "in_reasoning", "text"), [case[1:] for case in CORPUS], ids=[case[0] for case in CORPUS]
)


def test_corpus_is_large_and_has_all_fates():
    turns = [gathered(parse(text, form, in_reasoning=in_reasoning)) for _, form, in_reasoning, text in CORPUS]
    calls = [call for turn in turns for call in turn.calls]
    assert len(CORPUS) >= 140
    assert sum(call.is_complete for call in calls) > 60 and sum(not call.is_complete for call in calls) > 8
    assert sum("<tool_call>" in turn.content for turn in turns) > 20


@CASES
def test_all_two_way_splits(turn_format, in_reasoning, text):
    whole = parse(text, turn_format, in_reasoning=in_reasoning)
    gathered(whole)
    for at in range(len(text) + 1):
        assert parse([text[:at], text[at:]], turn_format, in_reasoning=in_reasoning) == whole, at


@CASES
def test_marks_that_are_tokens(turn_format, in_reasoning, text):
    form = with_tokens(turn_format)
    for mark, symbol in zip(MARKS, (one.symbol for one in form.marks), strict=True):
        text = text.replace(mark, symbol)
    whole = parse(text, form, in_reasoning=in_reasoning)
    gathered(whole)
    for at in range(0, len(text), 3):
        assert parse([text[:at], text[at:]], form, in_reasoning=in_reasoning) == whole, at
    shown = "".join(event.text for event in whole if isinstance(event, ContentText | ReasoningText))
    shown += "".join(event.json_text for event in whole if isinstance(event, CallArguments))
    shown.encode()  # no symbol is left


@pytest.mark.parametrize("buffers", [False, True])
@CASES
def test_characters_and_random_splits(turn_format, in_reasoning, text, buffers):
    options = {"in_reasoning": in_reasoning, "buffers": buffers}
    whole = parse(text, turn_format, **options)
    gathered(whole)
    assert parse(list(text), turn_format, **options) == whole
    rng = random.Random(len(text))
    for _ in range(5):
        cuts = sorted(rng.sample(range(len(text) + 1), min(rng.randrange(2, 12), len(text) + 1)))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert parse(pieces, turn_format, **options) == whole, pieces
