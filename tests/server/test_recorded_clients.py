"""What clients were seen to send, in the middle of their work: all of it is taken, and its reasoning comes back.

tests/data/agents/recorded has a request of each program, with the program's version; texts and lists are shortened.
tests/support/agent_server.py is what they were recorded with.
"""

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from stepahead.server.reasoning_state import seal
from support.agent_scenarios import Scenarios
from support.agent_server import Recorder
from support.message_rules import check as check_message
from support.response_rules import check as check_response
from support.scripted_service import Said, call, scripted, turn, write_step_like
from support.turn_script import frames_of

RECORDED = Path(__file__).parents[1] / "data" / "agents" / "recorded"
NAMES = sorted(path.stem for path in RECORDED.glob("*.json"))
WITH_REASONING = {"claude_code", "codex", "opencode", "cline"}
THOUGHT = "I need the names of all files."


@pytest.fixture(scope="module")
def step_like(tmp_path_factory) -> Path:
    return write_step_like(tmp_path_factory.mktemp("recorded") / "model.gguf", 32768)


def recorded(name: str) -> dict:
    text = (RECORDED / f"{name}.json").read_text()
    return json.loads(text.replace("Look number 1.", THOUGHT).replace("Someone else can do it.", THOUGHT))


def answer(path: Path, name: str, script) -> tuple:
    entry = recorded(name)

    async def ask():
        async with scripted(path, script) as (service, client):
            state = seal(THOUGHT, service.model_id, service.config.endpoints.state_key)
            body = json.loads(json.dumps(entry["body"]).replace("SEALED", state))
            return await client.post(entry["path"], json=body, headers=entry["headers"]), service

    return asyncio.run(ask())


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_a_client_sends_is_refused_or_left_out(step_like, name):
    done, service = answer(step_like, name, Scenarios())
    assert done.status_code == 200, done.text
    assert "x-stepahead-ignored" not in done.headers
    has_reasoning = f"<think>\n{THOUGHT}\n</think>\n" in service.prompts[-1]
    assert has_reasoning == (name in WITH_REASONING)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "aider"])
def test_a_client_gets_its_call(step_like, name):
    value = "a < b && c > \"d\"\n\t</parameter> 'e'"
    tools = {"claude_code": "mcp__tracker__find_issues", "codex": "multi_agent_v1__spawn_agent"}

    def script(request) -> Said:
        tool = tools.get(name, request.tools[0].name)
        return Said(turn("Go.", "", call(tool, text=value)))

    done, _ = answer(step_like, name, script)
    assert done.status_code == 200, done.text
    if name == "claude_code":
        thought, asked = check_message(frames_of(done))
        assert (asked["name"], json.loads(asked["pieces"])) == ("mcp__tracker__find_issues", {"text": value})
        assert (thought["pieces"], bool(thought["signature"])) == ("", True)  # it wants thinking without its text
    elif name == "codex":
        item = check_response(frames_of(done))["output"][-1]
        assert (item["namespace"], item["name"]) == ("multi_agent_v1", "spawn_agent")
        assert json.loads(item["arguments"]) == {"text": value}
    else:
        chunks = [json.loads(line[6:]) for line in done.text.splitlines() if line.startswith("data: {")]
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        pieces = [one["function"] for choice in choices for one in choice["delta"].get("tool_calls", ())]
        assert json.loads("".join(piece.get("arguments", "") for piece in pieces)) == {"text": value}
        names = [piece["name"] for piece in pieces if "name" in piece]
        assert names == [recorded(name)["body"]["tools"][0]["function"]["name"]]
        assert choices[-1]["finish_reason"] == "tool_calls"
        assert ("usage" in chunks[-1]) == (name != "open_webui")


SHELL = {"type": "function", "function": {"name": "Bash", "parameters": {"required": ["command"], "properties": {}}}}


def test_the_server_to_try_clients_with_writes_down_what_it_was_sent(step_like, tmp_path):
    log = tmp_path / "traffic.jsonl"
    asked = {"model": "any", "messages": [{"role": "user", "content": "scenario-tools"}], "tools": [SHELL]}

    async def ask():
        async with scripted(step_like, Scenarios()) as (service, _):
            transport = httpx.ASGITransport(Recorder(service, log))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.post("/v1/chat/completions", json=asked)

    done = asyncio.run(ask())
    (call_,) = done.json()["choices"][0]["message"]["tool_calls"]
    assert call_["function"] == {"name": "Bash", "arguments": '{"command":"ls"}'}
    (line,) = map(json.loads, log.read_text().splitlines())
    assert (line["status"], line["path"], line["body"]) == (200, "/v1/chat/completions", asked)
    assert "scenario-tools<|im_end|>" in line["prompts"][0]


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("plain", 200, "stop"),
        ("loop", 200, "tool_calls"),
        ("cut", 200, "length"),
        ("full", 400, None),
        ("busy", 503, None),
    ],
)
def test_scenarios_end_as_they_should(step_like, name, status, reason):
    asked = {"messages": [{"role": "user", "content": f"scenario-{name}"}], "tools": [SHELL]}

    async def ask():
        async with scripted(step_like, Scenarios()) as (_, client):
            return await client.post("/v1/chat/completions", json=asked)

    done = asyncio.run(ask())
    assert done.status_code == status
    if reason is not None:
        assert done.json()["choices"][0]["finish_reason"] == reason
