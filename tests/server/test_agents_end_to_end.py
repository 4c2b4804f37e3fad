"""Both agents' endpoints over the real service and a random model, through the real clients."""

import asyncio
import json
from pathlib import Path

import anthropic
import openai
import pytest

from stepahead.gguf import write_gguf
from stepahead.server.app import make_app
from stepahead.server.reasoning_state import unseal
from stepahead.server.responses.request import read_request
from support.message_rules import check as check_message
from support.random_step35 import Shape, metadata, model_tensors
from support.response_rules import check as check_response
from support.served import in_process
from support.turn_script import anthropics, frames_of

ROOT = Path(__file__).parents[1] / "data" / "agents"
CODEX = json.loads((ROOT / "codex.json").read_text())
CLAUDE_CODE = json.loads((ROOT / "claude_code.json").read_text())
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
TOOL = {"name": "read", "description": "Reads.", "parameters": NOTHING}


def run(path: Path, work, **config):
    async def serve():
        async with in_process(path, **config) as served:
            return await work(served)

    return asyncio.run(serve())


def test_responses_through_the_client(chat_model):
    async def work(served):
        client = openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="x", http_client=served.client)
        asked = {"model": "m", "input": "hello", "max_output_tokens": 12, "temperature": 0}
        async with client.responses.stream(**asked) as stream:
            kinds = [event.type async for event in stream]
        whole = await client.responses.create(**asked)
        again = await client.responses.create(**asked)
        count = await client.responses.input_tokens.count(model="m", input="hello")
        return kinds, whole, again, count

    kinds, whole, again, count = run(chat_model, work)
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")
    assert whole.output_text == again.output_text
    assert whole.usage.input_tokens == count.input_tokens
    assert 0 < whole.usage.output_tokens <= 12


def test_messages_through_the_client(chat_model):
    async def work(served):
        transport = anthropics.ASGITransport(make_app(served.service))
        async with anthropics.AsyncClient(transport=transport, base_url="http://localhost") as http:
            client = anthropic.AsyncAnthropic(base_url="http://localhost", api_key="x", http_client=http)
            messages = [{"role": "user", "content": "hello"}]
            asked = {"model": "m", "max_tokens": 12, "messages": messages, "extra_body": {"temperature": 0}}
            async with client.messages.stream(**asked) as stream:
                final = await stream.get_final_message()
            whole = await client.messages.create(**asked)
            count = await client.messages.count_tokens(model="m", messages=messages)
            return final, whole, count.input_tokens

    final, whole, count = run(chat_model, work)
    assert [block.text for block in final.content] == [block.text for block in whole.content]
    for usage in (final.usage, whole.usage):
        parts = (usage.input_tokens, usage.cache_creation_input_tokens, usage.cache_read_input_tokens)
        assert sum(parts) == count
    assert final.stop_reason in ("end_turn", "max_tokens")


@pytest.mark.parametrize("name", ["responses", "messages"])
def test_requests_of_the_agents_are_answered(chat_model, name):
    body = {"responses": {**CODEX, "max_output_tokens": 9}, "messages": {**CLAUDE_CODE, "max_tokens": 9}}[name]

    async def work(served):
        return await served.client.post(f"/v1/{name}?beta=true", json=body)

    done = run(chat_model, work, load={"context_length": 4096})
    assert done.status_code == 200, done.text
    (check_response if name == "responses" else check_message)(frames_of(done))
    assert "web_search" in done.headers["x-stepahead-ignored"]


def test_too_long_a_prompt_is_said_in_the_way_of_each_client(chat_model):
    words = "prompt is too long: "

    async def work(served):
        text = "hello " * 600
        messages = [{"role": "user", "content": text}]
        return (
            await served.client.post("/v1/responses", json={"input": text, "stream": True}),
            await served.client.post("/v1/responses", json={"input": text}),
            await served.client.post("/v1/messages", json={"messages": messages, "max_tokens": 1, "stream": True}),
        )

    streamed, whole, message = run(chat_model, work, load={"context_length": 128})
    frames = frames_of(streamed)
    assert check_response(frames)["error"]["code"] == "context_length_exceeded"
    assert words in frames[-1]["response"]["error"]["message"]
    assert (whole.status_code, whole.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert message.status_code == 400
    assert words in message.json()["error"]["message"]
    assert message.json()["request_id"] == message.headers["request-id"]


def test_the_end_of_the_context_has_its_own_name(chat_model):
    async def work(served):
        body = {"temperature": 0, "logit_bias": {}, "ignore_eos": True}
        messages = [{"role": "user", "content": "hello"}]
        return (
            await served.client.post("/v1/responses", json={**body, "input": "hello"}),
            await served.client.post("/v1/messages", json={**body, "messages": messages, "max_tokens": 9000}),
        )

    response, message = run(chat_model, work, load={"context_length": 64})
    assert response.json()["status"] == "incomplete"
    assert message.json()["stop_reason"] == "model_context_window_exceeded"


@pytest.fixture(scope="module")
def tool_model(tmp_path_factory) -> Path:
    """A random model whose template writes calls as Step's does."""
    path = tmp_path_factory.mktemp("tools") / "tools.gguf"
    shape = Shape()
    template = (ROOT.parents[1] / "tokenizer" / "data" / "step_like.jinja").read_text()
    write_gguf(path, {**metadata(shape), "tokenizer.chat_template": template}, dict(model_tensors(shape)))
    return path


def test_a_required_call_comes_under_its_name_and_goes_back(tool_model):
    pytest.importorskip("llguidance")

    async def work(served):
        """The model is made to stop thinking; its call is then all that the grammar allows."""
        (close,) = served.service.llm.llm.tokenizer.encode("</think>", add_bos=False, parse_special=True)
        more = {"logit_bias": {str(close): 9}, "seed": 1}
        space = {"type": "namespace", "name": "mcp__files", "tools": [{"type": "function", **TOOL}]}
        codex = {**more, "input": [{"role": "user", "content": "hi"}], "tools": [space], "parallel_tool_calls": False}
        first = (await served.client.post("/v1/responses", json={**codex, "tool_choice": "required"})).json()
        result = {"type": "function_call_output", "call_id": first["output"][-1]["call_id"], "output": "done"}
        back = [{**item, "content": None} if item["type"] == "reasoning" else item for item in first["output"]]
        settings = served.service.config.endpoints
        asked = read_request(
            {**codex, "input": [*codex["input"], *back, result]},
            lambda state: unseal(state, served.service.model_id, settings.state_key),
            settings,
        )
        prompt = await served.service.render(asked.turn)
        tool = {"name": "read", "input_schema": TOOL["parameters"]}
        body = {
            **more,
            "messages": codex["input"],
            "tools": [tool],
            "max_tokens": 300,
            "thinking": {"type": "adaptive"},
        }
        body["tool_choice"] = {"type": "any", "disable_parallel_tool_use": True}
        message = (await served.client.post("/v1/messages", json=body)).json()
        return first, prompt.text, message

    first, prompt, message = run(tool_model, work, load={"context_length": 1024})
    thought, call = first["output"]
    assert (call["type"], call["namespace"], call["name"]) == ("function_call", "mcp__files", "read")
    assert thought["content"][0]["text"].strip() in prompt
    assert "<function=mcp__files__read>" in prompt
    assert [block["type"] for block in message["content"]][-1] == "tool_use"
    assert message["content"][-1]["name"] == "read"
    assert message["stop_reason"] == "tool_use"


def test_a_tool_loop_and_another_billing_line_hit_the_cache(tool_model):
    async def work(served):
        asked = {"input": [{"role": "user", "content": "hi " * 50}], "max_output_tokens": 40, "tools": []}
        first = (await served.client.post("/v1/responses", json=asked)).json()
        back = [{**item, "content": None} if item["type"] == "reasoning" else item for item in first["output"]]
        more = {"type": "message", "role": "user", "content": "go on"}
        again = (await served.client.post("/v1/responses", json={**asked, "input": [*asked["input"], more]})).json()
        with_answer = {**asked, "input": [*asked["input"], *back, more]}
        usages = []
        for number in (1, 2):
            line = {"type": "text", "text": f"x-anthropic-billing-header: cch={number};"}
            system = [line, {"type": "text", "text": "Be kind. " * 40}]
            body = {"system": system, "messages": [more | {"content": "hi"}], "max_tokens": 4}
            usages.append((await served.client.post("/v1/messages", json=body)).json()["usage"])
        return first, again, (await served.client.post("/v1/responses", json=with_answer)).json(), usages

    first, again, with_answer, (cold, warm) = run(tool_model, work, load={"context_length": 1024})
    assert first["usage"]["input_tokens_details"]["cached_tokens"] == 0
    assert again["usage"]["input_tokens_details"]["cached_tokens"] > 50
    assert with_answer["usage"]["input_tokens_details"]["cached_tokens"] > 50
    assert cold["cache_read_input_tokens"] < cold["input_tokens"]
    assert warm["cache_read_input_tokens"] == cold["input_tokens"] + cold["cache_read_input_tokens"] - 1
    assert warm["input_tokens"] == 1
