"""The stream of /v1/messages: golden sequences, any turn in any steps, and streams that break a rule are found out."""

import asyncio
import json
from dataclasses import replace

import anthropic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepahead.server.api_error import ApiError
from stepahead.server.messages import router
from stepahead.server.messages.events import MessageEvents
from stepahead.server.reasoning_state import unseal
from stepahead.server.turn_service import Progress
from stepahead.turns.event import ContentText, ReasoningText
from support.message_rules import BrokenRule, check
from support.turn_script import (
    FULL_TURN,
    MODEL,
    SETTINGS,
    ScriptedService,
    anthropics,
    application,
    call,
    content,
    end,
    frames_of,
    http_client,
    post,
    reasoning,
    steps,
)

PATH = "/v1/messages?beta=true"
BODY = {
    "model": "claude-any",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hi"}],
    "thinking": {"type": "adaptive"},
}
BLOCK = ["content_block_start", "content_block_delta", "content_block_stop"]
GOLDEN = [
    "message_start",
    "ping",
    "content_block_start",
    "content_block_delta",
    "content_block_delta",
    "content_block_delta",  # the signature
    "content_block_stop",
    "content_block_start",
    "content_block_delta",
    "content_block_delta",
    "content_block_stop",
    "content_block_start",
    "content_block_delta",
    "content_block_delta",
    "content_block_delta",
    "content_block_stop",
    *BLOCK,
    "message_delta",
    "message_stop",
]


def stream(service: ScriptedService, body: dict | None = None, setting=SETTINGS) -> list[dict]:
    app = application(router, service, setting)
    return frames_of(post(app, PATH, {**BODY, **(body or {}), "stream": True}))


def answer(service: ScriptedService, body: dict | None = None) -> dict:
    done = post(application(router, service), PATH, {**BODY, **(body or {})})
    assert done.status_code == 200, done.text
    return done.json()


def client_of(service: ScriptedService, http) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url="http://test", api_key="none", http_client=http, max_retries=0)


def test_the_golden_sequence():
    frames = stream(ScriptedService())
    assert [frame["type"] for frame in frames] == GOLDEN
    content = check(frames)
    assert [block["type"] for block in content] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block["pieces"] for block in content] == ["First look.", "I read the file.", '{"path": "a.py"}', "{}"]
    assert unseal(content[0]["signature"], MODEL, SETTINGS.state_key) == "First look."
    assert frames[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}


def test_usage_adds_up_to_the_prompt():
    frames = stream(ScriptedService())
    start, last = frames[0]["message"]["usage"], frames[-2]["usage"]
    assert start["input_tokens"] == len(json.dumps(({"role": "user", "content": "hi"},)).split())
    assert (last["input_tokens"], last["cache_read_input_tokens"], last["cache_creation_input_tokens"]) == (6, 64, 0)
    assert last["output_tokens"] == 12
    assert last["output_tokens_details"] == {"thinking_tokens": 5}


def test_the_real_client_follows_the_stream():
    async def ask():
        service = ScriptedService()
        async with http_client(application(router, service), anthropics) as http:
            client = client_of(service, http)
            messages = [{"role": "user", "content": "hi"}]
            asked = {"model": "m", "max_tokens": 9, "messages": messages, "thinking": {"type": "adaptive"}}
            async with client.messages.stream(**asked) as stream:
                final = await stream.get_final_message()
            whole = await client.messages.create(**asked)
            count = await client.messages.count_tokens(model="m", messages=messages)
            return final, whole, count.input_tokens

    final, whole, count = asyncio.run(ask())
    assert [block.to_dict() | {"parsed_output": None} for block in final.content] == [
        block.to_dict() | {"parsed_output": None} for block in whole.content
    ]
    assert [block.type for block in whole.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert whole.content[2].input == {"path": "a.py"}
    assert final.stop_reason == whole.stop_reason == "tool_use"
    assert final.usage.input_tokens == whole.usage.input_tokens == 6
    assert final.usage.cache_read_input_tokens == 64
    assert count == len(json.dumps(({"role": "user", "content": "hi"},)).split())


@pytest.mark.parametrize(
    ("reason", "changes", "expected"),
    [
        ("stop", {}, ("end_turn", None)),
        ("length", {}, ("max_tokens", None)),
        ("context_length", {}, ("model_context_window_exceeded", None)),
        ("stop_sequence", {"stop_sequence": "END"}, ("stop_sequence", "END")),
        ("tool_calls", {}, ("tool_use", None)),
    ],
)
def test_stop_reasons(reason, changes, expected):
    script = [*steps(content("So")), end(reason, **changes)]
    message = answer(ScriptedService(script))
    assert (message["stop_reason"], message["stop_sequence"]) == expected
    delta = stream(ScriptedService(script))[-2]["delta"]
    assert (delta["stop_reason"], delta["stop_sequence"]) == expected


@pytest.mark.parametrize("thinking", [None, {"type": "disabled"}])
def test_thinking_that_nobody_asked_for_is_left_out(thinking):
    frames = stream(ScriptedService(), {"thinking": thinking})
    assert [block["type"] for block in check(frames)] == ["text", "tool_use", "tool_use"]
    assert "look" not in json.dumps(frames)
    assert answer(ScriptedService(), {"thinking": thinking})["content"][0]["type"] == "text"


def test_omitted_thinking_still_has_its_signature():
    thinking = {"type": "adaptive", "display": "omitted"}
    blocks = check(stream(ScriptedService(), {"thinking": thinking}))
    whole = answer(ScriptedService(), {"thinking": thinking})["content"]
    assert blocks[0]["pieces"] == whole[0]["thinking"] == ""
    assert blocks[0]["signature"] == whole[0]["signature"]
    assert unseal(whole[0]["signature"], MODEL, SETTINGS.state_key) == "First look."


def test_a_cut_call_is_never_done_and_is_text_in_one_piece():
    events = [*call(0, "read", "{}"), *call(1, "rm", '{"path": "/', is_cut=True)]
    script = [*steps(events), end("length")]
    frames = stream(ScriptedService(script))
    check(frames)
    assert [frame["index"] for frame in frames if frame["type"] == "content_block_stop"] == [0]
    whole = answer(ScriptedService(script))["content"]
    assert [block["type"] for block in whole] == ["tool_use", "text"]
    assert '{"path": "/' in whole[1]["text"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (RuntimeError("a secret"), "api_error"),
        (ApiError("overloaded", "too much"), "overloaded_error"),
        (end("error", error="the step failed"), "api_error"),
        (None, "api_error"),
    ],
)
def test_an_error_in_the_stream_is_its_last_event(fault, kind):
    service = ScriptedService([*steps(content("So "))] + ([] if fault is None else [fault]))
    frames = stream(service)
    check(frames)
    assert frames[-1]["error"]["type"] == kind
    assert "secret" not in json.dumps(frames)
    assert service.num_closed == 1


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_full_queue_is_529_with_a_time(is_streamed):
    error = ApiError("overloaded", "the queue is full", retry_after=1)
    done = post(application(router, ScriptedService(error=error)), PATH, {**BODY, "stream": is_streamed})
    assert done.status_code == 529
    assert done.headers["retry-after"] == "1"
    assert done.json()["error"] == {"type": "overloaded_error", "message": "the queue is full"}


def test_overflow_says_what_claude_code_looks_for():
    error = ApiError("invalid_request", "prompt is too long: 9 tokens > 8 maximum", None, "context_length_exceeded")

    async def ask():
        service = ScriptedService(error=error)
        async with http_client(application(router, service), anthropics) as http:
            with pytest.raises(anthropic.BadRequestError) as refused:
                async with client_of(service, http).messages.stream(
                    model="m", max_tokens=9, messages=BODY["messages"]
                ) as stream:
                    await stream.get_final_message()
            return refused.value

    assert "prompt is too long: 9 tokens > 8 maximum" in str(asyncio.run(ask()))


def test_silence_is_bridged_by_pings():
    slow = [Progress(9, 0, n, False) if n % 2 else 0.02 for n in range(20)]
    hidden = [part for event in reasoning(*"abcdef") for part in (*steps([event]), 0.02)]
    script = [*slow, *hidden, *steps(content("late")), end()]
    quick = replace(SETTINGS, keepalive_seconds=0.03)
    frames = stream(ScriptedService(script), {"thinking": {"type": "disabled"}}, quick)
    check(frames)
    kinds = [frame["type"] for frame in frames]
    assert kinds[:4] == ["message_start", "ping", "ping", "ping"]
    assert kinds.count("ping") >= 6


# --- any turn, in any steps ---
TEXTS = st.text(min_size=1, max_size=4)


@st.composite
def turns(draw) -> tuple[list, object]:
    events, number = [], 0
    for kind in draw(st.lists(st.sampled_from(["reasoning", "content", "call"]), max_size=6)):
        if kind == "call":
            text, size = json.dumps(draw(st.dictionaries(TEXTS, TEXTS, max_size=2))), draw(st.integers(1, 6))
            events += call(number, "read", *(text[start : start + size] for start in range(0, len(text), size)))
            number += 1
        else:
            events += (reasoning if kind == "reasoning" else content)(*draw(st.lists(TEXTS, max_size=3)))
    reason = draw(st.sampled_from(["stop", "length", "context_length", "stop_sequence", "error"]))
    if reason in ("length", "context_length", "error"):
        events = events[: draw(st.integers(0, len(events)))]
    return events, reason


def made(events: list, size: int, reason: str, thinking="shown", pings=True) -> list[dict]:
    writer = MessageEvents("m", lambda text: f"<{text}>", thinking, "1")
    data = writer.begin(3)
    for number, step in enumerate(steps(events, size)):
        data += writer.push(step)
        if pings and number % 3 == 0:
            data += writer.ping()
    data += writer.fail(ApiError("internal", "no")) if reason == "error" else writer.end(end(reason))[0]
    return [json.loads(block.split("data: ")[1]) for block in data.decode().split("\n\n") if block]


@given(turns(), st.integers(1, 5), st.sampled_from(["shown", "signed", "hidden"]))
@settings(max_examples=150, deadline=None)
def test_any_turn_in_any_steps_keeps_the_rules(turn, size, thinking):
    events, reason = turn
    blocks = check(made(events, size, reason, thinking))
    assert blocks == check(made(events, max(1, len(events)), reason, thinking))
    for kind, event in (("text", ContentText), ("thinking", ReasoningText)):
        shown = "".join(block["pieces"] for block in blocks if block["type"] == kind)
        said = "".join(one.text for one in events if isinstance(one, event))
        assert shown == ("" if kind == "thinking" and thinking != "shown" else said)


@pytest.mark.parametrize("index", [n for n, kind in enumerate(GOLDEN) if kind != "ping"])
def test_the_rules_find_a_lost_and_a_doubled_event(index):
    """A lost or doubled piece of text keeps the rules; whether it is there is for the test of the texts."""
    frames = made(FULL_TURN, 1, "tool_calls", pings=False)
    assert [frame["type"] for frame in frames] == GOLDEN
    is_piece = "delta" in frames[index] and frames[index]["delta"].get("type") in (
        "thinking_delta",
        "text_delta",
        "input_json_delta",
    )
    for broken in ([*frames[:index], *frames[index + 1 :]], [*frames[: index + 1], *frames[index:]]):
        try:
            found = check(broken)
        except (BrokenRule, ValueError, KeyError):
            continue
        assert is_piece
        assert found != check(frames)
