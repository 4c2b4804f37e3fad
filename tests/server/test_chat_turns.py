"""What chat completions make of a turn with reasoning and calls, whatever its steps: told by a script, not a model."""

import asyncio
import dataclasses
import json
from types import SimpleNamespace

import httpx
import openai
import pytest

from stepahead.server.chat_completions import router
from stepahead.server.turn_service import Progress
from support import turn_script
from support.turn_script import SETTINGS, call, content, end, reasoning, steps

USER = [{"role": "user", "content": "hello"}]
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}}
    for name in ("ls", "cat")
]
TURN = [
    *reasoning("so ", "what"),
    *content("Let me ", "look."),
    *call(0, "ls", '{"path"', ': "."}'),
    *call(1, "cat", '{"path": "a"}'),
]
CALLS = [("call_0", "ls", '{"path": "."}'), ("call_1", "cat", '{"path": "a"}')]


def scripted(items, settings=SETTINGS):
    service = turn_script.ScriptedService(list(items))
    service.config = SimpleNamespace(default_temperature=1.0, stall_seconds=5.0)
    return service, turn_script.application(router, service, settings)


def ask(items, settings=SETTINGS, **fields):
    """(events of a stream, the same answer in one piece, the request that the service was given)."""

    async def main():
        service, app = scripted(items, settings)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            body = {"messages": USER, "tools": TOOLS, **fields}
            streamed = await client.post("/v1/chat/completions", json={**body, "stream": True})
            whole = await client.post("/v1/chat/completions", json={**body, "stream_options": None})
        return streamed, whole, service.asked[-1]

    streamed, whole, request = asyncio.run(main())
    events = [json.loads(line[6:]) for line in streamed.text.split("\n\n") if line.startswith("data: {")]
    return events, whole, request


@pytest.mark.parametrize("size", [1, 2, 3, 20])
def test_deltas_of_a_turn(size):
    events, whole, _ = ask([*steps(TURN, size), end("tool_calls")])
    kinds = [kind for event in events for kind in event["choices"][0]["delta"] if kind != "role"]
    assert [kind for i, kind in enumerate(kinds[1:]) if kind != kinds[i]] == [
        "reasoning_content", "content", "tool_calls",
    ]  # fmt: skip
    ids, names, arguments = [], [], {}
    for event in events:
        delta = event["choices"][0]["delta"]
        assert not {"content", "tool_calls"} <= set(delta)
        assert delta.get("tool_calls") != []
        for one in delta.get("tool_calls", []):
            ids += [one["id"]] if "id" in one else []
            names += [one["function"]["name"]] if "name" in one["function"] else []
            arguments[one["index"]] = arguments.get(one["index"], "") + one["function"]["arguments"]
    assert list(zip(ids, names, arguments.values(), strict=True)) == CALLS
    assert events[-1]["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "tool_calls"}
    message = whole.json()["choices"][0]["message"]
    assert message["reasoning_content"] == "so what" and message["content"] == "Let me look."
    assert [
        (one["id"], one["function"]["name"], one["function"]["arguments"]) for one in message["tool_calls"]
    ] == CALLS


def test_the_real_client_puts_calls_together():
    async def main():
        _, app = scripted([*steps(TURN), end("tool_calls")])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
            client = openai.AsyncOpenAI(api_key="x", base_url="http://localhost/v1", http_client=http)
            asked = {"model": "m", "messages": USER, "tools": TOOLS}
            async with client.chat.completions.stream(**asked) as stream:
                async for _ in stream:
                    pass
                return await stream.get_final_completion(), await client.chat.completions.create(**asked)

    for answer in asyncio.run(main()):
        (choice,) = answer.choices
        calls = [(one.id, one.function.name, one.function.arguments) for one in choice.message.tool_calls]
        assert (choice.finish_reason, choice.message.content, calls) == ("tool_calls", "Let me look.", CALLS)
        assert choice.message.reasoning_content == "so what"


def test_only_calls_have_null_content():
    _, whole, _ = ask([*steps(call(0, "ls", "{}")), end("tool_calls")])
    assert whole.json()["choices"][0]["message"]["content"] is None


def test_reasoning_under_another_name():
    settings = dataclasses.replace(SETTINGS, reasoning_field="reasoning")
    events, whole, _ = ask([*steps(TURN), end("tool_calls")], settings)
    assert "".join(event["choices"][0]["delta"].get("reasoning", "") for event in events) == "so what"
    assert whole.json()["choices"][0]["message"]["reasoning"] == "so what"


@pytest.mark.parametrize(
    ("reason", "told"),
    [("stop", "stop"), ("stop_sequence", "stop"), ("length", "length"), ("context_length", "length")],
)
def test_finish_reasons(reason, told):
    events, whole, _ = ask([*steps(content("hi")), end(reason)])
    assert events[-1]["choices"][0]["finish_reason"] == whole.json()["choices"][0]["finish_reason"] == told


def test_an_error_in_the_middle():
    events, whole, _ = ask([*steps(content("hi")), end("error", error="it broke")])
    assert events[-1] == {"error": {"message": "it broke", "type": "server_error", "param": None, "code": None}}
    assert whole.status_code == 500 and whole.json() == events[-1]


def test_progress_on_request():
    items = [Progress(100, 0, 0, True), Progress(100, 20, 60, False), *steps(content("hi")), end()]
    events, _, _ = ask(items, return_progress=True)
    told = [event["prompt_progress"] for event in events if "prompt_progress" in event]
    assert told == [
        {"total": 100, "cache": 0, "processed": 0, "queued": True},
        {"total": 100, "cache": 20, "processed": 60, "queued": False},
    ]
    assert not any("prompt_progress" in event for event in ask(items)[0])


def test_usage():
    asked = {"stream_options": {"include_usage": True}}
    events = ask([*steps(content("hi")), end()], **asked)[0]
    assert events[-1]["usage"] == {
        "prompt_tokens": 70,
        "completion_tokens": 12,
        "total_tokens": 82,
        "prompt_tokens_details": {"cached_tokens": 64},
        "completion_tokens_details": {
            "reasoning_tokens": 5, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "mode", "names", "tools"),
    [
        (None, "auto", (), 2),
        ("none", "none", (), 2),
        ("required", "required", (), 2),
        ({"type": "function", "function": {"name": "cat"}}, "named", ("cat",), 2),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [
                {"type": "function", "function": {"name": "ls"}}]}}, "named", ("ls",), 2,
        ),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [
                {"type": "function", "name": "ls"}]}}, "auto", ("ls",), 1,
        ),
    ],
)  # fmt: skip
def test_tool_choices(choice, mode, names, tools):
    _, _, request = ask([end()], tool_choice=choice, parallel_tool_calls=False)
    assert (request.tool_choice.mode, request.tool_choice.names, len(request.tools)) == (mode, names, tools)
    assert not request.tool_choice.is_parallel
