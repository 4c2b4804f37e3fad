"""The stream of /v1/responses: golden sequences, any turn in any steps, and streams that break a rule are found out."""

import asyncio
import json
from dataclasses import replace

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepahead.server.api_error import ApiError
from stepahead.server.responses import router
from stepahead.server.responses.events import ResponseEvents
from stepahead.server.responses.response import ResponseObject
from stepahead.server.responses.tool_names import ToolNames, WireName
from stepahead.server.turn_service import Progress, TokenLogprob, TurnStep
from stepahead.turns.event import ContentText
from stepahead.turns.tool import Tool
from support.response_rules import BrokenRule, check
from support.turn_script import (
    FULL_TURN,
    SETTINGS,
    ScriptedService,
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

PATH = "/v1/responses"
GOLDEN = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.reasoning_text.delta",
    "response.reasoning_text.delta",
    "response.reasoning_text.done",
    "response.output_item.done",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
    "response.completed",
]


def stream(service: ScriptedService, body: dict | None = None, setting=SETTINGS) -> list[dict]:
    app = application(router, service, setting)
    return frames_of(post(app, PATH, {"model": "m", "input": "hi", **(body or {}), "stream": True}))


def answer(service: ScriptedService, body: dict | None = None) -> dict:
    done = post(application(router, service), PATH, {"model": "m", "input": "hi", **(body or {})})
    assert done.status_code == 200, done.text
    return done.json()


def without_identity(value):
    """Ids and times are new in each answer."""
    if isinstance(value, dict):
        return {k: without_identity(v) for k, v in value.items() if k not in ("id", "created_at", "completed_at")}
    return [without_identity(one) for one in value] if isinstance(value, list) else value


def test_the_golden_sequence():
    frames = stream(ScriptedService())
    assert [frame["type"] for frame in frames] == GOLDEN
    response = check(frames)
    assert [item["type"] for item in response["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert response["output"][2]["arguments"] == '{"path": "a.py"}'
    assert response["usage"] == {
        "input_tokens": 70,
        "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 0},
        "output_tokens": 12,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 82,
    }


def test_a_step_makes_one_delta_of_a_kind():
    frames = stream(ScriptedService([*steps(FULL_TURN, len(FULL_TURN)), end("tool_calls")]))
    deltas = [frame["delta"] for frame in frames if frame["type"].endswith(".delta")]
    assert deltas == ["First look.", "I read the file.", '{"path": "a.py"}', "{}"]


def test_streamed_and_whole_answers_are_the_same():
    streamed = check(stream(ScriptedService()))
    assert without_identity(answer(ScriptedService())) == without_identity(streamed)


def test_the_real_client_follows_the_stream():
    async def ask():
        async with http_client(application(router, ScriptedService())) as http:
            client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http, max_retries=0)
            async with client.responses.stream(model="m", input="hi") as stream:
                events = [event.type async for event in stream]
                return events, await stream.get_final_response(), await client.responses.create(model="m", input="hi")

    events, final, whole = asyncio.run(ask())
    assert events == GOLDEN
    assert final.output_text == whole.output_text == "I read the file."
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]
    assert [(item.call_id, item.name, item.arguments) for item in whole.output[2:]] == [
        ("call_0", "read", '{"path": "a.py"}'),
        ("call_1", "list", "{}"),
    ]
    assert final.usage.input_tokens == whole.usage.input_tokens == 70
    assert whole.object == "response"
    assert whole.error is None


CUSTOM = {"tools": [{"type": "custom", "name": "apply_patch", "description": "Edit."}]}


def test_a_custom_tool_gets_its_text_as_it_comes():
    events = call(0, "apply_patch", '{"input": "*** Be', "gin\\n\\ud83d", '\\ude00 \\"q\\"', '"}')
    frames = stream(ScriptedService([*steps(events), end("tool_calls")]), CUSTOM)
    item = check(frames)["output"][0]
    assert item["type"] == "custom_tool_call"
    assert item["input"] == '*** Begin\n😀 "q"'
    deltas = [frame["delta"] for frame in frames if frame["type"] == "response.custom_tool_call_input.delta"]
    assert deltas == ["*** Be", "gin\n", '😀 "q"']


@pytest.mark.parametrize(
    ("json_text", "expected"),
    [
        ('{ "input" :\t"a" }', "a"),
        ('{"other": 1}', '{"other": 1}'),
        ('{"input": {"a": "ü"}}', '{"a": "ü"}'),
        ('{"other": 1, "input": "late"}', "late"),
        ('{"input": "\\ud800x"}', "\ud800x"),
        ("{}", "{}"),
    ],
)
def test_custom_input_of_any_form_in_any_pieces(json_text, expected):
    for cut in range(len(json_text) + 1):
        events = call(0, "apply_patch", *filter(None, (json_text[:cut], json_text[cut:])))
        item = check(stream(ScriptedService([*steps(events), end("tool_calls")]), CUSTOM))["output"][0]
        assert item["input"] == expected


def test_a_length_stop_is_incomplete_and_a_cut_call_is_never_done():
    events = [*content("Now"), *call(0, "read", "{}"), *call(1, "rm", '{"path": "/', is_cut=True)]
    frames = stream(ScriptedService([*steps(events), end("length")]))
    response = check(frames)
    assert frames[-1]["type"] == "response.incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in response["output"]] == ["completed", "completed", "incomplete"]
    done = [frame["item"].get("name") for frame in frames if frame["type"] == "response.output_item.done"]
    assert done == [None, "read"]


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (RuntimeError("a secret"), "server_error"),
        (ApiError("overloaded", "too much"), "server_is_overloaded"),
        (end("error", error="the step failed"), "server_error"),
        (None, "server_error"),
    ],
)
def test_an_error_in_the_stream_is_its_last_event(fault, code):
    service = ScriptedService([*steps(content("So "))] + ([] if fault is None else [fault]))
    frames = stream(service)
    response = check(frames)
    assert frames[-1]["type"] == "response.failed"
    assert response["error"]["code"] == code
    assert "secret" not in json.dumps(frames)
    assert response["output"][0]["content"][0]["text"] == "So "
    assert service.num_closed == 1


def test_overflow_is_told_in_a_stream_and_by_status_otherwise():
    error = ApiError("invalid_request", "prompt is too long: 9 tokens > 8 maximum", None, "context_length_exceeded")
    frames = stream(ScriptedService(error=error))
    assert [frame["type"] for frame in frames] == ["response.created", "response.in_progress", "response.failed"]
    assert check(frames)["error"] == {"code": "context_length_exceeded", "message": error.message}
    done = post(application(router, ScriptedService(error=error)), PATH, {"input": "hi"})
    assert done.status_code == 400
    assert done.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_full_queue_is_503_with_a_time(is_streamed):
    error = ApiError("overloaded", "the queue is full", retry_after=2.5)
    done = post(application(router, ScriptedService(error=error)), PATH, {"input": "hi", "stream": is_streamed})
    assert done.status_code == 503
    assert done.headers["retry-after"] == "3"


def test_silence_is_bridged_by_numbered_events():
    slow = [Progress(9, 0, n, False) if n % 2 else 0.02 for n in range(20)]
    script = [*slow, *steps(content("late")), 0.1, end()]
    quick = replace(SETTINGS, keepalive_seconds=0.03)
    frames = stream(ScriptedService(script), setting=quick)
    check(frames)
    kinds = [frame["type"] for frame in frames]
    assert kinds[:2] == GOLDEN[:2]
    assert kinds[2:4] == ["keepalive", "keepalive"]
    assert kinds.count("keepalive") >= 4
    assert kinds.index("response.output_text.delta") < len(kinds) - 1 - kinds[::-1].index("keepalive")
    app = application(router, ScriptedService(script), replace(quick, responses_keepalive="comment"))
    text = post(app, PATH, {"input": "hi", "stream": True}).text
    assert "keepalive\ndata" not in text
    assert "\n\n: " in text
    silent = stream(ScriptedService(script), setting=replace(quick, responses_keepalive="off"))
    assert "keepalive" not in [frame["type"] for frame in silent]


def test_logprobs_come_with_the_text_they_are_of():
    one = TokenLogprob("ü".encode()[:1], -0.5, ((b"a", -0.5), (b"b", -1.0)))
    script = [
        TurnStep(0, (), 1, 0, (one,)),
        TurnStep(0, (ContentText("ü"),), 1, 0, (one,)),
        TurnStep(0, (ContentText("a"),), 1, 0, (one,)),
        end(),
    ]
    body = {"top_logprobs": 2, "include": ["message.output_text.logprobs"]}
    service = ScriptedService(script)
    frames = stream(service, body)
    assert service.asked[0].params.logprobs == 2
    deltas = [frame for frame in frames if frame["type"] == "response.output_text.delta"]
    assert [len(delta["logprobs"]) for delta in deltas] == [2, 1]
    final = check(frames)["output"][0]["content"][0]["logprobs"]
    assert len(final) == 3
    assert final[0]["bytes"] == [0xC3]
    assert [top["token"] for top in final[0]["top_logprobs"]] == ["a", "b"]


# --- any turn, in any steps ---
TEXTS = st.text(min_size=1, max_size=4)
CALLS = st.tuples(
    st.sampled_from(["read", "apply_patch"]), st.dictionaries(TEXTS, TEXTS, max_size=2), st.integers(1, 6)
)


@st.composite
def turns(draw) -> tuple[list, object]:
    events, number = [], 0
    for kind in draw(st.lists(st.sampled_from(["reasoning", "content", "call"]), max_size=6)):
        if kind == "call":
            name, arguments, size = draw(CALLS)
            text = json.dumps({"input": draw(TEXTS)} if name == "apply_patch" and draw(st.booleans()) else arguments)
            pieces = [text[start : start + size] for start in range(0, len(text), size)]
            events += call(number, name, *pieces)
            number += 1
        else:
            events += (reasoning if kind == "reasoning" else content)(*draw(st.lists(TEXTS, max_size=3)))
    reason = draw(st.sampled_from(["stop", "length", "context_length", "stop_sequence", "error"]))
    if reason in ("length", "context_length", "error"):
        events = events[: draw(st.integers(0, len(events)))]
    return events, reason


def made(events: list, size: int, reason: str, keepalives=True) -> list[dict]:
    names = ToolNames()
    names.add(WireName("read"), Tool(""))
    names.add(WireName("apply_patch", None, "custom"), Tool(""))
    writer = ResponseEvents(ResponseObject("m", {}, lambda text: f"<{text}>", "1", 0), names)
    data = writer.begin(3)
    for number, step in enumerate(steps(events, size)):
        data += writer.push(step)
        if keepalives and number % 3 == 0:
            data += writer.keepalive()
    data += writer.fail(ApiError("internal", "no")) if reason == "error" else writer.end(end(reason))[0]
    return [json.loads(block.split("data: ")[1]) for block in data.decode().split("\n\n") if block]


@given(turns(), st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_any_turn_in_any_steps_keeps_the_rules(turn, size):
    events, reason = turn
    response = check(made(events, size, reason))
    one_step = check(made(events, max(1, len(events)), reason))
    assert response["output"] == one_step["output"]
    said = "".join(event.text for event in events if isinstance(event, ContentText))
    shown = [item["content"] for item in response["output"] if item["type"] == "message"]
    assert "".join(part["text"] for parts in shown for part in parts) == said


@pytest.mark.parametrize("index", range(len(GOLDEN)))
def test_the_rules_find_a_lost_a_doubled_and_a_moved_event(index):
    def renumbered(frames: list[dict]) -> list[dict]:
        return [{**frame, "sequence_number": number} for number, frame in enumerate(frames)]

    frames = made(FULL_TURN, 1, "tool_calls", keepalives=False)
    assert [frame["type"] for frame in frames] == GOLDEN
    broken = [[*frames[:index], *frames[index + 1 :]], [*frames[: index + 1], *frames[index:]]]
    if index + 1 < len(frames) and frames[index]["type"] != frames[index + 1]["type"]:
        broken.append([*frames[:index], frames[index + 1], frames[index], *frames[index + 2 :]])
    for one in broken:
        with pytest.raises(BrokenRule):
            check(one)
        with pytest.raises((BrokenRule, KeyError)):
            check(renumbered(one))
