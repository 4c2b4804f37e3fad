"""What a body of /v1/responses asks of the service: items, tools, names, and what is refused."""

import json
from pathlib import Path

import pytest

from stepahead.server.reasoning_state import seal
from stepahead.server.responses import router
from stepahead.server.responses.request import FIELDS
from stepahead.turns.output_format import JsonObject, JsonSchema
from stepahead.turns.tool import ToolChoice
from stepahead.turns.turn_request import TurnRequest
from support.response_rules import check
from support.turn_script import (
    MODEL,
    SETTINGS,
    ScriptedService,
    application,
    call,
    content,
    end,
    frames_of,
    post,
    reasoning,
    steps,
)

PATH = "/v1/responses"
CODEX = json.loads((Path(__file__).parents[1] / "data" / "agents" / "codex.json").read_text())
FUNCTION = {"type": "function", "name": "read", "parameters": {"type": "object", "properties": {}}}
SPACE = {"type": "namespace", "name": "mcp__a", "description": "About a.", "tools": [FUNCTION]}


def codex(state: str) -> dict:
    return json.loads(json.dumps(CODEX).replace("SEALED", state))


def asked(body: dict) -> TurnRequest:
    service = ScriptedService([end()])
    done = post(application(router, service), PATH, body)
    assert done.status_code == 200, done.text
    return service.asked[0]


def refusal(body: dict) -> dict:
    done = post(application(router, ScriptedService([end()])), PATH, {"input": "hi", **body})
    assert done.status_code == 400
    return done.json()["error"]


def test_a_request_of_codex_becomes_the_conversation_that_the_model_had():
    request = asked({**codex(seal("I need the file.", MODEL, SETTINGS.state_key)), "stream": False})
    first_system, context, task, turn, *results, change, go_on = request.messages
    assert first_system["role"] == "system"
    assert first_system["content"].startswith("You are a coding agent")
    assert first_system["content"].endswith("read-only.</permissions>")
    assert [context["role"], task["content"]] == ["user", "Fix the failing test."]
    assert turn["reasoning_content"] == "I need the file."
    assert turn["content"] == "I look at the test first."
    assert [call["function"] for call in turn["tool_calls"]] == [
        {"name": "exec_command", "arguments": '{"cmd": "cat test_a.py"}'},
        {"name": "mcp__tracker__search_issues", "arguments": '{"text": "test_a"}'},
        {"name": "apply_patch", "arguments": {"input": "*** Begin Patch\n*** End Patch"}},
    ]
    assert [(result["role"], result["tool_call_id"]) for result in results] == [
        ("tool", "call_1"),
        ("tool", "call_2"),
        ("tool", "call_3"),
    ]
    assert results[1]["content"].startswith("no issue\n[image left out")
    assert change == {"role": "system", "content": "The model was changed."}
    assert go_on == {"role": "user", "content": "Go on."}


def test_the_tools_of_codex_are_flat_for_the_model():
    request = asked({**codex("x"), "stream": False})
    names = [tool.name for tool in request.tools]
    assert names == [
        "exec_command",
        "update_plan",
        "mcp__tracker__search_issues",
        "mcp__tracker__get_issue",
        "apply_patch",
    ]
    assert request.tools[2].description == "The issue tracker.\n\nFinds issues."
    assert request.tools[3].description == "Reads one."
    assert "Begin Patch" in request.tools[4].parameters["properties"]["input"]["description"]
    assert request.template_args == {"reasoning_effort": "high"}
    assert request.params.max_tokens is None
    assert request.params.temperature == 1.0


def test_calls_return_under_the_names_of_the_client():
    events = [
        *reasoning("Hm."),
        *content("Now."),
        *call(0, "mcp__tracker__search_issues", '{"text": "a"}'),
        *call(1, "apply_patch", '{"input": "*** Begin"}'),
    ]
    service = ScriptedService([*steps(events), end("tool_calls")])
    response = check(frames_of(post(application(router, service), PATH, codex("x"))))
    thought, _, search, patch = response["output"]
    assert (search["namespace"], search["name"]) == ("mcp__tracker", "search_issues")
    assert (patch["type"], patch["name"], patch["input"]) == ("custom_tool_call", "apply_patch", "*** Begin")
    again = {**CODEX, "input": [*CODEX["input"][:3], {**thought, "content": None}], "stream": False}
    assert asked(again).messages[-1]["reasoning_content"] == "Hm."


def test_what_is_left_out_is_named_in_a_header():
    done = post(application(router, ScriptedService([end()])), PATH, {**codex("x"), "novelty": 1, "bad\r\nname": 2})
    names = done.headers["x-stepahead-ignored"].split(", ")
    assert names[:2] == ["novelty", "bad??name"]
    assert {"tools[4].web_search", "tools[5].image_generation", "input[11].web_search_call"} <= set(names)
    assert {"input[3].encrypted_content", "input[9].output[1].input_image"} <= set(names)
    assert len(names) == 7


@pytest.mark.parametrize("names", [["a", ""], [""], [" ", "b"], ["c "], ["d\n"], ["ü"], [f"{n:99}" for n in range(99)]])
def test_any_name_makes_a_header_that_can_be_sent(names):
    """As h11 has it, which ends the connection otherwise."""
    done = post(application(router, ScriptedService([end()])), PATH, {"input": "hi", **dict.fromkeys(names, 1)})
    value = done.headers["x-stepahead-ignored"]
    assert value.isascii()
    assert value.isprintable()
    assert value == value.strip() != ""


def test_warnings_of_the_service_come_in_a_header():
    done = post(application(router, ScriptedService([end()], warnings=("a", "b"))), PATH, {"input": "hi"})
    assert done.headers["x-stepahead-ignored"] == "a, b"


def test_the_answer_repeats_the_request():
    body = {
        "input": "hi",
        "instructions": "Be brief.",
        "tools": [FUNCTION, SPACE],
        "tool_choice": "required",
        "metadata": {"a": "b"},
        "max_output_tokens": 77,
        "reasoning": {"effort": "high"},
        "text": {"verbosity": "low"},
        "store": True,
        "user": "me",
    }
    response = post(application(router, ScriptedService([end()])), PATH, body).json()
    for name in ("instructions", "tool_choice", "metadata", "max_output_tokens", "user"):
        assert response[name] == body[name]
    assert response["tools"] == [{**FUNCTION, "strict": False}, SPACE]
    assert response["reasoning"] == {"effort": "high", "summary": None}
    assert response["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert response["store"] is False
    assert response["temperature"] == response["top_p"] == 1.0
    assert response["model"] == MODEL


@pytest.mark.parametrize(
    ("choice", "expected", "num_offered"),
    [
        ("auto", ToolChoice("auto"), 2),
        ("none", ToolChoice("none"), 2),
        ("required", ToolChoice("required"), 2),
        ({"type": "function", "name": "read"}, ToolChoice("named", ("read",)), 2),
        ({"type": "function", "name": "read", "namespace": "mcp__a"}, ToolChoice("named", ("mcp__a__read",)), 2),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "read"}]}, ToolChoice(), 1),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "read"}]},
            ToolChoice("named", ("read",)),
            2,
        ),
    ],
)
def test_tool_choice(choice, expected, num_offered):
    request = asked({"input": "hi", "tools": [FUNCTION, SPACE], "tool_choice": choice})
    assert request.tool_choice == expected
    assert len(request.tools) == num_offered


def test_names_that_meet_are_kept_apart():
    clash = {**FUNCTION, "name": "mcp__a__read"}
    service = ScriptedService([*steps(call(0, "mcp__a__read_2", "{}")), end("tool_calls")])
    done = post(application(router, service), PATH, {"input": "hi", "tools": [clash, SPACE]}).json()
    assert [tool.name for tool in service.asked[0].tools] == ["mcp__a__read", "mcp__a__read_2"]
    assert (done["output"][0]["namespace"], done["output"][0]["name"]) == ("mcp__a", "read")


def test_of_two_tools_with_one_name_the_first_is_offered():
    done = post(
        application(router, ScriptedService([end()])),
        PATH,
        {"input": "hi", "tools": [FUNCTION, SPACE, {**FUNCTION, "description": "again"}]},
    )
    assert done.headers["x-stepahead-ignored"] == "tools[2].name"


def test_one_call_at_most():
    assert not asked({"input": "hi", "parallel_tool_calls": False}).tool_choice.is_parallel


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, JsonObject()),
        ({"type": "json_schema", "name": "a", "schema": {"type": "object"}}, JsonSchema({"type": "object"})),
        ({"type": "json_schema", "schema": {}, "strict": False}, JsonSchema({}, is_lenient=True)),
    ],
)
def test_formats(wanted, expected):
    assert asked({"input": "hi", "text": {"format": wanted}}).output_format == expected


def test_later_tools_count_as_well():
    later = {"type": "additional_tools", "role": "developer", "tools": [{**FUNCTION, "name": "late"}]}
    request = asked({"input": [{"role": "user", "content": "hi"}, later], "tools": [FUNCTION]})
    assert [tool.name for tool in request.tools] == ["read", "late"]


@pytest.mark.parametrize("body", [{}, {"input": []}, {"input": None, "max_output_tokens": 1}, {"input": ""}])
def test_a_probe_without_input_is_answered(body):
    assert asked(body).messages == ({"role": "user", "content": ""},)


def test_reasoning_that_cannot_be_read_is_no_error():
    def turn(item: dict) -> dict:
        said = {"role": "assistant", "content": "So."}
        body = {"input": [{"role": "user", "content": "hi"}, {"type": "reasoning", **item}, said]}
        return asked(body).messages[1]

    for state in ("", "sa1.x.y", "gAAAA", 7, seal("a", "other", b"k"), seal("a", MODEL, b"another key")):
        assert "reasoning_content" not in turn({"encrypted_content": state, "summary": [{"type": "summary_text"}]})
    assert turn({"content": [{"type": "reasoning_text", "text": "Hm."}]})["reasoning_content"] == "Hm."


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": "x"}, "seed"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"input": 7}, "input"),
        ({"input": ["a"]}, "input[0]"),
        ({"input": [{"role": "judge", "content": "a"}]}, "input[0].role"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"type": "function_call", "name": "a"}]}, "input[0].call_id"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "a", "parameters": 1}]}, "tools[0].parameters"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function"}]}]}, "tools[0].tools[0].name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "a"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(body, param):
    error = refusal(body)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("name", sorted(FIELDS.hints))
def test_hints_pass_whatever_they_hold(name):
    done = post(application(router, ScriptedService([end()])), PATH, {"input": "hi", name: {"a": [1]}})
    assert done.status_code == 200
    assert done.headers.get("x-stepahead-ignored") == ("store" if name == "store" else None)


def test_tokens_are_counted_as_they_would_be_in_an_answer():
    service = ScriptedService([end()])
    body = {**codex("x"), "stream": False}
    done = post(application(router, service), f"{PATH}/input_tokens", body)
    asked(body)
    assert done.json() == {"object": "response.input_tokens", "input_tokens": done.json()["input_tokens"]}
    assert service.asked[0].messages == asked(body).messages


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/resp_1"), ("DELETE", "/resp_1"), ("GET", "/resp_1/input_items"), ("POST", "/resp_1/cancel")],
)
def test_nothing_is_kept(method, path):
    import asyncio

    from support.turn_script import http_client

    async def ask():
        async with http_client(application(router, ScriptedService())) as client:
            return await client.request(method, PATH + path)

    done = asyncio.run(ask())
    assert done.status_code == 404
    assert done.json()["error"]["param"] == "response_id"
