"""Whatever a model says: nothing raises, nothing is lost, JSON is valid, time is linear."""

import json
import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turn_samples import (
    HERMES,
    JSON_CALLS,
    MARKS,
    QWEN,
    STEP,
    XML_CALLS,
    gathered,
    parse,
    parser_of,
    with_tokens,
)  # fmt: skip

from stepahead.turns.event import CallArguments, CallStarted, ContentText, ReasoningText

FORMATS = [STEP, QWEN, HERMES, with_tokens(STEP), with_tokens(HERMES)]
FRAGMENTS = [
    "<tool_call>", "</tool_call>", "<function=", "write", ">", "now>", "</function>", "<parameter=", "path>", "line>",
    "</parameter>", "<think>", "</think>", "\n", "\n", " ", "{", "}", '"name"',
    ":", '"write"', '"arguments"', ",", "[", "]", '"', "\\", "\\u12", "1", "true", "é", "🙂", "<", "\n</parameter>\n",
    "<tool_call>\n<function=write>\n", "<parameter=text>\n", '<tool_call>\n{"name": "write", "arguments": {',
    "</function>\n</tool_call>", '"a": ', '"b", ', "-", "e9",
]  # fmt: skip
SYMBOLS = [mark.symbol for mark in with_tokens(STEP).marks]
TEXTS = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=40)


def as_tokens(pieces, turn_format):
    """Every second mark as the token that it is in some formats."""
    if turn_format.call_open.token_id is None:
        return pieces
    symbols = dict(zip(MARKS, SYMBOLS, strict=True))
    return [symbols.get(piece, piece) if number % 2 else piece for number, piece in enumerate(pieces)]


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.sampled_from(FORMATS), st.booleans(), st.booleans())
def test_never_raises_and_no_cut_matters(pieces, turn_format, in_reasoning, buffers):
    options = {"in_reasoning": in_reasoning, "buffers": buffers}
    pieces = as_tokens(pieces, turn_format)
    events = parse(pieces, turn_format, **options)
    turn = gathered(events)
    assert not buffers or all(call.is_complete for call in turn.calls)
    assert parse("".join(pieces), turn_format, **options) == events
    assert parse(list("".join(pieces)), turn_format, **options) == events


SAMPLES = [*XML_CALLS.values(), *JSON_CALLS.values()]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(SAMPLES), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_calls_with_mistakes(samples, rng):
    """Pieces dropped, doubled and swapped in calls that were good or bad before."""
    parts = re.split(r"(?<=[>\n{},:])", "".join(samples))
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(parts))
        part = parts[at]
        parts[at : at + 1] = rng.choice([[], [part, part], [rng.choice(parts)], [part[: len(part) // 2]]])
        parts = parts or [""]
    for turn_format in (STEP, HERMES):
        events = parse(parts, turn_format)
        gathered(events)
        assert parse("".join(parts), turn_format) == events


def all_text(events):
    """What was sent, with JSON strings as they were before."""
    pieces = []
    for event in events:
        if isinstance(event, ContentText | ReasoningText):
            pieces.append(event.text)
        elif isinstance(event, CallStarted):
            pieces.append(event.name)
        elif isinstance(event, CallArguments):
            pieces.append(event.json_text)
    return "".join(pieces)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=40), st.sampled_from([STEP, QWEN]), st.booleans(), st.booleans())
def test_nothing_is_lost(pieces, turn_format, in_reasoning, buffers):
    """Each piece is followed by a word of its own, and each word arrives once, in order; but the values of parameters
    that were there before."""
    pieces = [piece + f"w{number}w" * (number % 3 == 0) for number, piece in enumerate(pieces)]
    text = "".join(pieces)
    parser = parser_of(turn_format, in_reasoning=in_reasoning, buffers=buffers)
    events = [*parser.push(text), *parser.finish()]
    sent = re.findall(r"w\d+w", all_text(events))
    if parser.unfinished_call is not None and not buffers:
        sent += re.findall(r"w\d+w", parser.unfinished_call)
        sent = list(dict.fromkeys(sent))
    words = re.findall(r"w\d+w", text)
    missing = [word for word in words if word not in sent]
    assert [word for word in words if word in sent] == sent
    if text.count("<parameter=") < 2:
        assert not missing


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=30))
def test_without_calls_and_reasoning_the_text_is_the_content(pieces):
    text = "".join(pieces)
    assert gathered(parse(text, QWEN, tools={})).content == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4), st.booleans(), st.sampled_from([None, 1]))
def test_hermes_arguments_are_those_that_were_written(arguments, ascii_only, indent):
    text = json.dumps({"name": "write", "arguments": arguments}, ensure_ascii=ascii_only, indent=indent)
    (call,) = gathered(parse(f"<tool_call>\n{text}\n</tool_call>", HERMES)).calls
    assert call.arguments == arguments and call.is_complete


@pytest.mark.parametrize(
    ("turn_format", "begin", "part"),
    [
        (STEP, "", "<tool_call>"),
        (STEP, "", "<tool_call>\n<function=writ "),
        (STEP, "<tool_call>\n<function=write>\n<parameter=text>\n", "\n</function>\n</tool_call"),
        (STEP, "<tool_call>\n<function=write>\n<parameter=line>\n", "\n</paramete"),
        (STEP, "<tool_call>\n<function=write>\n", "<parameter=a>\n1\n</parameter>\n"),
        (STEP, "", "<tool_call>\n<function=now>\n</function>\n</tool_call>"),
        (STEP, "<think>", "\n</think"),
        (QWEN, "", "\n\n<tool_call"),
        (HERMES, '<tool_call>{"arguments": "', "</tool_call"),
        (HERMES, '<tool_call>{"name": "write", "arguments": {"a": "', '\\"'),
        (HERMES, '<tool_call>{"name": "write", "arguments": {"a": [0', ", 1"),
        (HERMES, '<tool_call>{"name": "write", "arguments": {', '"a": 1, '),
        (HERMES, '<tool_call>{"name": "write", "arguments": {"', "k"),
    ],
)
@pytest.mark.parametrize("size", [1, 4, 10**9])
def test_time_is_linear(turn_format, begin, part, size):
    """Of the time for a text, one four times as long takes at most about four times."""

    def seconds(length):
        text = begin + part * (length // len(part))
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        best = float("inf")
        for _ in range(2):
            parser = parser_of(turn_format)
            start = time.thread_time()
            for piece in pieces:
                parser.push(piece)
            parser.finish()
            best = min(best, time.thread_time() - start)
        return best

    assert seconds(16_000) < 8 * seconds(4_000) + 0.005


def test_random_bytes():
    rng = random.Random(7)
    for _ in range(200):
        text = bytes(rng.choices(range(256), k=60)).decode("utf-8", "replace")
        gathered(parse(text, rng.choice(FORMATS), in_reasoning=rng.random() < 0.5))
