"""Both agents' endpoints under load and ill will: clients that leave, bodies that would take for ever, any JSON."""

import asyncio
import contextlib
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepahead.server import messages, responses
from stepahead.server.api_error import ApiError
from stepahead.server.conversation import Conversation
from stepahead.server.messages.request import FIELDS as MESSAGES_FIELDS
from stepahead.server.messages.request import read_request as read_messages
from stepahead.server.responses.request import FIELDS as RESPONSES_FIELDS
from stepahead.server.responses.request import read_request as read_responses
from stepahead.server.sse import ClientGoneError
from support.turn_script import SETTINGS, ScriptedService, application, content, end, steps

ENDPOINTS = [
    (responses.router, "/v1/responses", {"input": "hi"}),
    (messages.router, "/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}),
]


def leave_during(router, path: str, body: dict, service: ScriptedService) -> list[dict]:
    """What was sent to a client that leaves after 50 ms."""

    async def ask():
        waiting = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        sent = []

        async def receive():
            if waiting:
                return waiting.pop()
            await asyncio.sleep(0.05)
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        with contextlib.suppress(ClientGoneError):
            await asyncio.wait_for(application(router, service)(scope, receive, send), 5)
        return sent

    return asyncio.run(ask())


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize(("router", "path", "body"), ENDPOINTS)
def test_a_client_that_leaves_ends_the_turn(router, path, body, is_streamed):
    service = ScriptedService([*steps(content("a")), 60, end()])
    sent = leave_during(router, path, {**body, "stream": is_streamed}, service)
    assert service.num_closed == 1
    assert any(b'"a"' in message.get("body", b"") for message in sent) == is_streamed


def seconds(read, body: dict) -> float:
    """CPU time; 40,000 of anything take a fifth of a second, and minutes if each looks at all before it."""
    start = time.thread_time()
    with contextlib.suppress(ApiError):
        read(body, lambda _: None, SETTINGS)
    return time.thread_time() - start


ITEMS = [
    {"role": "developer", "content": "a" * 200},
    {"role": "assistant", "content": "a" * 200},
    {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "a" * 200}]},
    {"type": "function_call_output", "call_id": "a", "output": "a" * 200},
]
BLOCKS = [{"type": "tool_result", "tool_use_id": "a", "content": "a"}, {"type": "text", "text": "a"}]


@pytest.mark.parametrize("item", ITEMS)
def test_long_inputs_take_time_in_proportion(item):
    assert seconds(read_responses, {"input": [item] * 40_000}) < 2


@pytest.mark.parametrize("has_one_name", [True, False])
def test_many_tools_take_time_in_proportion(has_one_name):
    tools = [{"type": "function", "name": "a" if has_one_name else f"a{number}"} for number in range(40_000)]
    assert seconds(read_responses, {"input": "hi", "tools": tools}) < 2


def test_many_results_take_time_in_proportion():
    message = {"role": "user", "content": BLOCKS * 20_000}
    assert seconds(read_messages, {"max_tokens": 1, "messages": [message]}) < 2


# --- any JSON at any place is answered or refused, never a fault ---
WORDS = [
    "message", "reasoning", "function_call", "function_call_output", "custom_tool_call", "additional_tools",
    "namespace", "function", "custom", "user", "assistant", "developer", "input_text", "text", "auto",
    "required", "allowed_tools",
    "tool_use", "tool_result", "thinking", "redacted_thinking", "document", "json_schema", "system", "any", "tool",
]  # fmt: skip
KEYS = [
    "type", "role", "content", "text", "name", "namespace", "call_id", "arguments", "output", "input", "tools", "id",
    "format", "schema", "parameters", "encrypted_content", "summary", "mode", "effort", "thinking", "signature",
    "tool_use_id", "is_error", "source", "data", "input_schema", "strict", "description", "display",
]  # fmt: skip
NUMBERS = st.one_of(st.integers(-9, 9), st.floats(-2, 2))
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(WORDS), st.text(max_size=3))
JSONS = st.recursive(
    LEAVES,
    lambda value: st.one_of(st.lists(value, max_size=4), st.dictionaries(st.sampled_from(KEYS), value, max_size=5)),
)


def bodies(table) -> st.SearchStrategy:
    names = [*table.honoured, *table.hints, *table.refused, "unknown"]
    return st.dictionaries(st.sampled_from(names), JSONS, max_size=6)


def is_plain(request) -> None:
    for message in request.turn.messages:
        assert isinstance(message["content"], str)
        assert message["role"] in ("system", "user", "assistant", "tool")
    for tool in request.turn.tools:
        assert isinstance(tool.parameters, dict)


@given(bodies(RESPONSES_FIELDS))
@settings(max_examples=200, deadline=None)
def test_any_json_is_read_or_refused_by_responses(body):
    try:
        is_plain(read_responses(body, lambda _: None, SETTINGS))
    except ApiError as error:
        assert error.kind == "invalid_request"


@given(bodies(MESSAGES_FIELDS), st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_json_is_read_or_refused_by_messages(body, is_valid):
    start = ENDPOINTS[1][2] if is_valid else {}
    try:
        is_plain(read_messages({**start, **body}, lambda _: None, SETTINGS))
    except ApiError as error:
        assert error.kind == "invalid_request"


# --- conversations ---
def test_a_turn_is_one_message_until_reasoning_begins_the_next():
    conversation = Conversation()
    conversation.reasoning("a")
    conversation.reasoning("b")
    conversation.call("1", "f", "{}")
    conversation.answer("c")
    conversation.reasoning("d")
    conversation.answer("e")
    assert [(one["reasoning_content"], one["content"]) for one in conversation.messages()] == [("ab", "c"), ("d", "e")]
