"""A turn token by token: content, stop strings, the end after one call, and what is counted."""

import pytest
from turn_samples import (
    CONTROLS,
    CORPUS,
    DEFINED,
    PLAIN,
    STEP,
    Call,
    gathered,
    make_tokenizer,
    parse,
    turn_text,
    with_tokens,
    xml,
)  # fmt: skip

from stepahead.engine.request import TextStream
from stepahead.errors import RequestError
from stepahead.tokenizer import split_reasoning
from stepahead.turns.event import CallArguments, CallEnded, CallStarted, ContentText, ReasoningText
from stepahead.turns.turn_text import coalesced


def run(text, tokenizer=CONTROLS, **options):
    """(stream, what push and flush returned, events) after `text`, until it stops."""
    stream = turn_text(tokenizer, **options)
    pieces, events = [], []
    for token_id in tokenizer.encode(text):
        pieces.append(stream.push(token_id))
        events += stream.take_events()
        if stream.stopped:
            break
    pieces.append(stream.flush())
    return stream, "".join(pieces), coalesced([*events, *stream.take_events()])


def test_it_is_a_text_stream():
    stream: TextStream = turn_text()
    assert (stream.stopped, stream.matched_stop, stream.push(97), stream.flush()) == (False, None, "a", "")


@pytest.mark.parametrize("tokenizer", [PLAIN, CONTROLS, DEFINED], ids=["characters", "control", "user-defined"])
def test_a_whole_turn(tokenizer):
    text = f"be\n</think>\nSo é:{xml('write', ('path', 'a'), ('line', '1'))}<|im_end|>{xml('now')}"
    stream, content, events = run(text, tokenizer, starts_in_reasoning=True)
    assert content == "So é:"
    assert events == [
        ReasoningText("be"), ContentText("So é:"), CallStarted(0, "call_0", "write"),
        CallArguments(0, '{"path":"a","line":1}'), CallEnded(0), CallStarted(1, "call_1", "now"),
        CallArguments(1, "{}"), CallEnded(1),
    ]  # fmt: skip
    assert stream.num_complete_calls == 2 and not stream.stopped and not stream.has_unfinished_call


@pytest.mark.parametrize(("_", "turn_format", "in_reasoning", "text"), CORPUS, ids=[case[0] for case in CORPUS])
def test_tokens_give_what_the_text_gives(_, turn_format, in_reasoning, text):
    stream, content, events = run(text, PLAIN, turn_format=turn_format, starts_in_reasoning=in_reasoning)
    assert events == parse(text, turn_format, in_reasoning=in_reasoning)
    turn = gathered(events)
    assert content == turn.content and stream.num_complete_calls == sum(call.is_complete for call in turn.calls)


@pytest.mark.parametrize("tokenizer", [PLAIN, CONTROLS, DEFINED])
@pytest.mark.parametrize("text", ["be\n</think>\nso", "be\n\n</think>\n\n so", "<think>\nbe\n</think>\nso", "</think>"])
def test_reasoning_is_split_as_by_split_reasoning(tokenizer, text):
    turn = gathered(run(text, tokenizer, starts_in_reasoning=True)[2])
    assert split_reasoning(tokenizer, tokenizer.encode(text)) == (turn.reasoning, turn.content)


class TestStopStrings:
    def test_content_alone_is_searched(self):
        text = f"stop\n</think>\nGo:{xml('write', ('text', 'stop'))}and stop here"
        stream, content, events = run(text, starts_in_reasoning=True, stops=["stop"])
        turn = gathered(events)
        assert (stream.matched_stop, turn.reasoning, turn.content) == ("stop", "stop", "Go:and ")
        assert content == turn.content and turn.calls == (Call("write", '{"text":"stop"}', True),)

    def test_it_ends_with_the_token_that_completes_it(self):
        stream = turn_text(stops="ab")
        assert [stream.push(ord(char)) for char in "xab"] == ["x", "", ""] and stream.stopped
        assert stream.push(ord("c")) == stream.flush() == "" and stream.take_events() == [ContentText("x")]

    def test_what_may_be_one_is_held_back_until_the_end(self):
        stream, content, _ = run("xa", stops=["ab"])
        assert content == "xa" and stream.matched_stop is None

    def test_a_call_ends_what_may_be_one(self):
        _, content, events = run(f"xa{xml('now')}b", stops=["ab"])
        assert content == "xab" and [type(event) for event in events][:2] == [ContentText, CallStarted]
        assert events[0] == ContentText("xa")

    def test_text_of_a_call_that_is_none_is_searched(self):
        stream, content, _ = run("x<tool_call>\nwrite(stop)", stops=["write"])
        assert stream.stopped and content == "x<tool_call>\n"

    def test_one_of_a_mark_is_never_met_in_a_call(self):
        stream, _, events = run(xml("now"), stops=["<tool_call>", "</function>"])
        assert not stream.stopped and len(gathered(events).calls) == 1

    def test_one_that_the_end_completes(self):
        stream, content, _ = run("x<tool", PLAIN, stops=["<tool"])
        assert (stream.matched_stop, stream.stopped, content) == ("<tool", True, "x")

    def test_what_follows_in_the_same_token_never_happened(self):
        whole = f"a stop{xml('now')}b"
        tokenizer = make_tokenizer(extra=whole)
        stream = turn_text(tokenizer, STEP, stops="stop")
        assert stream.push(tokenizer.id_of(whole)) == "a " and stream.take_events() == [ContentText("a ")]
        stream = turn_text(tokenizer, STEP, is_parallel=False)
        assert stream.push(tokenizer.id_of(whole)) == "a stop" and stream.take_events()[-1] == CallEnded(0)

    def test_empty_ones_are_refused(self):
        with pytest.raises(RequestError, match="non-empty"):
            turn_text(stops=[""])


class TestCalls:
    def test_one_is_enough_unless_parallel(self):
        stream, _, events = run(xml("now") + xml("write"), is_parallel=False)
        assert stream.stopped and stream.matched_stop is None and stream.num_complete_calls == 1
        assert gathered(events).calls == (Call("now", "{}", True),)

    def test_not_parsed_they_are_text(self):
        _, content, events = run(xml("now"), parses_calls=False)
        assert content == xml("now") and events == [ContentText(xml("now"))]

    def test_a_cut_is_known_at_the_end(self):
        text = "<tool_call>\n<function=write>\n<parameter=text>\nab"
        stream, content, events = run(f"So{text}")
        assert stream.has_unfinished_call and stream.unfinished_call == text and content == "So"
        assert gathered(events).calls == (Call("write", '{"text":"ab', False),)
        stream, content, events = run(f"So{text}", buffers_calls=True)
        assert stream.has_unfinished_call and content == f"So{text}" and events == [ContentText(content)]

    def test_states(self):
        stream = turn_text(starts_in_reasoning=True)
        seen = []
        for token_id in CONTROLS.encode(f"b</think>a{xml('now')}c"):
            seen.append((stream.is_reasoning, stream.is_in_call))
            stream.push(token_id)
        assert seen == [(True, False)] * 2 + [(False, False)] * 2 + [(False, True)] * 27 + [(False, False)] * 3


def test_reasoning_tokens_are_counted_with_their_end():
    assert run("abc\n</think>\nd", starts_in_reasoning=True)[0].num_reasoning_tokens == 5
    assert run("<think>\na\n</think>\nd")[0].num_reasoning_tokens == 4
    assert run("abc")[0].num_reasoning_tokens == 0


class TestTokens:
    def test_unfinished_characters(self):
        stream = turn_text()
        assert [stream.push(byte) for byte in "é".encode()] == ["", "é"]
        assert stream.push(0xC3) == "" and stream.flush() == "\ufffd"

    def test_a_mark_ends_an_unfinished_character(self):
        stream = turn_text(starts_in_reasoning=True)
        stream.push(0xC3)
        stream.push(with_tokens(STEP).think_close.token_id)
        assert stream.push(0xA9) + stream.flush() == "\ufffd"
        assert stream.take_events()[0] == ReasoningText("\ufffd")

    def test_control_tokens_are_hidden_in_content_and_values(self):
        _, content, events = run(f"a<|im_end|>b{xml('write', ('text', 'c<|im_end|>d'))}")
        assert content == "ab" and gathered(events).calls[0].arguments == {"text": "cd"}

    def test_ids_outside_the_vocabulary(self):
        with pytest.raises(RequestError, match="outside the vocabulary"):
            turn_text().push(10**6)
