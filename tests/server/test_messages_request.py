"""What a body of /v1/messages asks of the service: blocks, tools, the billing line, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from stepahead.server.messages import router
from stepahead.server.messages.request import FIELDS
from stepahead.server.reasoning_state import seal
from stepahead.turns.output_format import JsonSchema
from stepahead.turns.tool import ToolChoice
from stepahead.turns.turn_request import TurnRequest
from support.turn_script import MODEL, SETTINGS, ScriptedService, application, end, post

PATH = "/v1/messages"
CLAUDE_CODE = json.loads((Path(__file__).parents[1] / "data" / "agents" / "claude_code.json").read_text())
HI = {"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
TOOL = {"name": "Read", "input_schema": {"type": "object", "properties": {}}}
BILLING = "x-anthropic-billing-header: cc_version=2.1.150.abc; cc_entrypoint=cli; cch=11111;"


def asked(body: dict, settings=SETTINGS) -> TurnRequest:
    service = ScriptedService([end()])
    done = post(application(router, service, settings), PATH, {**HI, **body, "stream": False})
    assert done.status_code == 200, done.text
    return service.asked[0]


def said(*messages: dict) -> tuple:
    return asked({"messages": list(messages)}).messages


def refusal(body: dict) -> dict:
    done = post(application(router, ScriptedService([end()])), PATH, {**HI, **body})
    assert done.status_code == 400
    assert done.json()["type"] == "error"
    return done.json()["error"]


def test_a_request_of_claude_code_becomes_the_conversation_that_the_model_had():
    request = asked(CLAUDE_CODE)
    assert list(request.messages) == [
        {"role": "system", "content": "You are a coding agent.\n\nWork in /repo. Today is Sunday."},
        {
            "role": "user",
            "content": "<system-reminder>No todo list yet.</system-reminder>\n\nFix the failing test.",
        },
        {
            "role": "assistant",
            "content": "I look at the test first.",
            "reasoning_content": "I need the file.",
            "tool_calls": [
                {
                    "id": "toolu_1",
                    "type": "function",
                    "function": {"name": "Read", "arguments": {"file_path": "/repo/test_a.py"}},
                },
                {
                    "id": "toolu_2",
                    "type": "function",
                    "function": {"name": "Bash", "arguments": {"command": "pytest"}},
                },
            ],
        },
        {
            "role": "tool",
            "tool_call_id": "toolu_1",
            "content": "def test_a(): ...\n[image left out: this model reads text alone]",
        },
        {"role": "tool", "tool_call_id": "toolu_2", "content": "[error]\nexit code 1"},
        {"role": "user", "content": "<system-reminder>The file changed.</system-reminder>"},
        {"role": "system", "content": "Plan mode is over."},
    ]
    assert [tool.name for tool in request.tools] == ["Read", "Bash"]
    assert request.params.max_tokens == 32000
    assert request.template_args == {"reasoning_effort": "high"}


def test_what_is_left_out_is_named_in_a_header():
    done = post(application(router, ScriptedService([end()])), PATH, {**CLAUDE_CODE, "novelty": 1, "stream": False})
    assert done.headers["x-stepahead-ignored"].split(", ") == [
        "novelty",
        "tools[3].web_search_20250305",
        "messages[2].content[0].content[1].image",
    ]


def test_the_billing_line_is_no_part_of_the_prompt():
    other = json.loads(json.dumps(CLAUDE_CODE).replace("cch=11111", "cch=22222").replace("150.abc", "180.def"))
    assert asked(CLAUDE_CODE) == asked(other)
    kept = replace(SETTINGS, strips_billing_header=False)
    assert asked(CLAUDE_CODE, kept) != asked(other, kept)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": BILLING}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": BILLING}]}]},
        {"system": f"{BILLING}\nYou are an agent."},
        {"system": [{"type": "text", "text": f"Note {BILLING}"}]},
    ],
)
def test_the_same_words_elsewhere_are_text(body):
    assert BILLING in json.dumps(asked(body).messages)


def test_neighbours_of_one_role_are_one_turn():
    messages = said(
        {"role": "user", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": [{"type": "text", "text": "d"}]},
        {"role": "user", "content": "e"},
    )
    assert [(message["role"], message["content"]) for message in messages] == [
        ("user", "a\n\nb"),
        ("assistant", "cd"),
        ("user", "e"),
    ]


def test_thinking_is_read_wherever_it_is():
    def turn(block: dict) -> dict:
        return said(
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [block, {"type": "text", "text": "b"}]},
            {"role": "user", "content": "c"},
        )[1]

    state = seal("Hm.", MODEL, SETTINGS.state_key)
    for block in (
        {"type": "thinking", "thinking": "Hm.", "signature": "of someone else"},
        {"type": "thinking", "thinking": "Hm."},
        {"type": "thinking", "thinking": "", "signature": state},
        {"type": "redacted_thinking", "data": state},
    ):
        assert turn(block)["reasoning_content"] == "Hm."
    for block in ({"type": "redacted_thinking", "data": "EvA"}, {"type": "thinking", "thinking": "", "signature": 7}):
        assert "reasoning_content" not in turn(block)


def test_documents_of_text_are_read():
    source = {"type": "text", "media_type": "text/plain", "data": "the text"}
    document = {"type": "document", "source": source, "title": "A title"}
    assert said({"role": "user", "content": [document]})[0]["content"] == "A title\n\nthe text"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, ToolChoice("auto")),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "tool", "name": "Read"}, ToolChoice("named", ("Read",))),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice("auto", (), False)),
        (None, ToolChoice("auto")),
    ],
)
def test_tool_choice(choice, expected):
    assert asked({"tools": [TOOL], "tool_choice": choice}).tool_choice == expected


@pytest.mark.parametrize("name", ["output_config", "output_format"])
def test_formats(name):
    wanted = {"type": "json_schema", "schema": {"type": "object"}}
    body = {name: {"format": wanted} if name == "output_config" else wanted}
    assert asked(body).output_format == JsonSchema({"type": "object"})


def test_stops_and_sampling():
    params = asked({"stop_sequences": ["END"], "temperature": 0.5, "top_k": 3, "top_p": 0.9}).params
    assert (params.stops, params.temperature, params.top_k, params.top_p) == (("END",), 0.5, 3, 0.9)


def test_tokens_are_counted_as_they_would_be_in_an_answer():
    service = ScriptedService([end()])
    body = {name: value for name, value in CLAUDE_CODE.items() if name not in ("max_tokens", "stream")}
    count = post(application(router, service), f"{PATH}/count_tokens?beta=true", body)
    assert set(count.json()) == {"input_tokens"}
    asked_request = asked(CLAUDE_CODE)
    assert service.asked[0].messages == asked_request.messages
    assert service.asked[0].tools == asked_request.tools


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"text": "a"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [7]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0].tool_use_id"),
        ({"system": 7}, "system"),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "Write"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "maybe"}}, "tool_choice.type"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"thinking": "yes"}, "thinking"),
        ({"stream": 1}, "stream"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(body, place):
    error = refusal(body)
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith((f"{place} ", f"{place}: "))
    assert error["message"].count(place) == 1


@pytest.mark.parametrize("name", sorted(FIELDS.hints))
def test_hints_pass_whatever_they_hold(name):
    done = post(application(router, ScriptedService([end()])), PATH, {**HI, name: {"a": [1]}})
    assert done.status_code == 200
    assert "x-stepahead-ignored" not in done.headers


DEFERRED = {"name": "Monitor", "description": "Watches.", "input_schema": {"type": "object"}, "defer_loading": True}
SEARCH = {"name": "ToolSearch", "input_schema": {"type": "object", "properties": {"query": {"type": "string"}}}}


def found(*names: str) -> list[dict]:
    call = {"type": "tool_use", "id": "toolu_1", "name": "ToolSearch", "input": {"query": "monitor"}}
    references = [{"type": "tool_reference", "tool_name": name} for name in names]
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": references}
    return [*HI["messages"], {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]


def test_a_deferred_tool_is_described_where_it_is_referred_to_and_the_head_stays():
    before = asked({"tools": [SEARCH, DEFERRED]})
    assert ([tool.name for tool in before.tools], before.late_tools) == (["ToolSearch"], ())
    after = asked({"tools": [SEARCH, DEFERRED], "messages": found("Monitor", "Monitor", "Nothing")})
    assert after.tools == before.tools
    assert [tool.name for tool in after.callable_tools] == ["ToolSearch", "Monitor"]
    text = after.messages[-1]["content"]
    assert text.count("Watches.") == 1
    assert '"name": "Monitor"' in text
    assert text.endswith("Monitor\nNothing")


def test_a_deferred_tool_can_be_asked_for_once_it_is_known():
    body = {"tools": [SEARCH, DEFERRED], "tool_choice": {"type": "tool", "name": "Monitor"}}
    assert "does not offer" in refusal(body)["message"]
    assert asked({**body, "messages": found("Monitor")}).tool_choice.names == ("Monitor",)


def test_where_nobody_can_search_deferred_tools_are_offered_at_once():
    hosted = {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"}
    assert [tool.name for tool in asked({"tools": [hosted, DEFERRED]}).tools] == ["Monitor"]


def test_tools_come_and_go_in_the_middle_of_a_conversation():
    new = {"name": "Fetch", "description": "Fetches.", "input_schema": {"type": "object", "properties": {}}}
    changes = [
        {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "Monitor"}},
        {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": new}},
    ]
    gone = {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "Monitor"}}
    messages = [*HI["messages"], {"role": "system", "content": changes}]
    request = asked({"tools": [TOOL, DEFERRED], "messages": messages})
    assert [tool.name for tool in request.tools] == ["Read"]
    assert [tool.name for tool in request.late_tools] == ["Monitor", "Fetch"]
    assert all(text in request.messages[-1]["content"] for text in ("Watches.", "Fetches."))
    later = [*messages, {"role": "user", "content": "more"}, {"role": "system", "content": [gone]}]
    request = asked({"tools": [TOOL, DEFERRED], "messages": later})
    assert [tool.name for tool in request.late_tools] == ["Fetch"]
    assert request.messages[-1] == {"role": "system", "content": "The tool Monitor can no longer be called."}
