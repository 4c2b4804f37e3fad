"""Everything that both endpoints send has the fields and types that the vendors' own libraries declare."""

import pytest
from anthropic.types import Message, RawMessageStreamEvent
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from stepahead.server import messages, responses
from stepahead.server.turn_service import TokenLogprob, TurnStep
from stepahead.turns.event import ContentText
from support.turn_script import FULL_TURN, ScriptedService, application, call, content, end, frames_of, post, steps

CUSTOM = {"type": "custom", "name": "apply_patch", "format": {"type": "text"}}
FUNCTION = {"type": "function", "name": "read", "parameters": {"type": "object", "properties": {}}}
LOGPROB = TokenLogprob(b"a", -0.5, ((b"a", -0.5), (b"b", -1.0)))
SCRIPTS = {
    "full": [*steps(FULL_TURN), end("tool_calls")],
    "custom": [*steps(call(0, "apply_patch", '{"input": "a', 'b"}')), end("tool_calls")],
    "cut": [*steps([*content("a"), *call(0, "read", '{"a', is_cut=True)]), end("length")],
    "failed": [*steps(content("a")), RuntimeError("no")],
    "logprobs": [TurnStep(0, (ContentText("a"),), 1, 0, (LOGPROB,)), end()],
    "empty": [end()],
}
RESPONSES_BODY = {"model": "m", "input": "hi", "instructions": "Be brief.", "tools": [FUNCTION, CUSTOM]}
MESSAGES_BODY = {
    "model": "m",
    "max_tokens": 9,
    "thinking": {"type": "adaptive"},
    "messages": [{"role": "user", "content": "hi"}],
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_events_of_a_response_are_as_declared(name):
    app = application(responses.router, ScriptedService(SCRIPTS[name]))
    known = TypeAdapter(ResponseStreamEvent)
    for frame in frames_of(post(app, "/v1/responses", {**RESPONSES_BODY, "stream": True})):
        event = known.validate_python(frame, strict=True)
        assert event.type == frame["type"]


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "failed"])
def test_a_response_is_as_declared(name):
    app = application(responses.router, ScriptedService(SCRIPTS[name]))
    Response.model_validate(post(app, "/v1/responses", RESPONSES_BODY).json(), strict=True)


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "failed"])
def test_events_of_a_message_are_as_declared(name):
    app = application(messages.router, ScriptedService(SCRIPTS[name]))
    known = TypeAdapter(RawMessageStreamEvent)
    for frame in frames_of(post(app, "/v1/messages", {**MESSAGES_BODY, "stream": True})):
        if frame["type"] != "ping":
            assert known.validate_python(frame, strict=True).type == frame["type"]


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "failed"])
def test_a_message_is_as_declared(name):
    app = application(messages.router, ScriptedService(SCRIPTS[name]))
    Message.model_validate(post(app, "/v1/messages", MESSAGES_BODY).json(), strict=True)
