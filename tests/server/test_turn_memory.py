"""Conversations that go on, over the real service: what was read and written is the beginning of the next prompt."""

import asyncio
import json

import pytest
from test_dictated_turns import BODIES, PATHS, THOUGHT, tool_model  # noqa: F401 (a fixture)

from support.dictation import dictate
from support.served import in_process

SAID = (
    THOUGHT
    + "So.<tool_call>\n<function=write>\n<parameter=path>\na\n</parameter>\n<parameter=line>\n3.0\n</parameter>\n"
    "</function>\n</tool_call>\n"
)
COUNTERS = {"chat": "/tokenize", "responses": "/v1/responses/input_tokens", "messages": "/v1/messages/count_tokens"}


def gone_on(endpoint: str, answer: dict) -> dict:
    """The next request: what the answer gave, and a result of its call."""
    body = BODIES[endpoint]
    if endpoint == "chat":
        message = answer["choices"][0]["message"]
        (call,) = message["tool_calls"]
        result = {"role": "tool", "tool_call_id": call["id"], "content": "done"}
        return {**body, "messages": [*body["messages"], message, result]}
    if endpoint == "responses":
        back = [{**item, "content": None} if item["type"] == "reasoning" else item for item in answer["output"]]
        result = {"type": "function_call_output", "call_id": back[-1]["call_id"], "output": "done"}
        return {**body, "input": [*body["input"], *back, result]}
    result = {"type": "tool_result", "tool_use_id": answer["content"][-1]["id"], "content": "done"}
    turns = [{"role": "assistant", "content": answer["content"]}, {"role": "user", "content": [result]}]
    return {**body, "messages": [*body["messages"], *turns]}


def two_turns(path, endpoint: str, **config):
    """(both prompts, the tokens between them, cached tokens and counted ones of the second, its rendering as text)."""

    async def serve():
        async with in_process(path, {"context_length": 1024}, **config) as served:
            service, prompts = served.service, []
            prepare = service.prepare

            async def noted(request):
                turn = await prepare(request)
                prompts.append(turn.prompt_ids)
                return turn

            service.prepare = noted
            ids = dictate(served, SAID)
            answer = (await served.client.post(PATHS[endpoint], json=BODIES[endpoint])).json()
            asked = gone_on(endpoint, answer)
            counted = (await served.client.post(COUNTERS[endpoint], json=asked)).json()
            text = (await served.client.post("/apply-template", json=asked)).json() if endpoint == "chat" else None
            again = (await served.client.post(PATHS[endpoint], json=asked)).json()
            return prompts, ids, again["usage"], counted.get("count") or counted["input_tokens"], text

    return asyncio.run(serve())


@pytest.mark.parametrize("endpoint", COUNTERS)
def test_the_next_prompt_begins_with_what_was_read_and_written(tool_model, endpoint: str) -> None:  # noqa: F811
    (first, second), ids, usage, counted, text = two_turns(tool_model, endpoint)
    known = [*first, *ids]
    assert list(second[: len(known)]) == known
    assert counted == len(second)
    cached = {
        "chat": lambda: usage["prompt_tokens_details"]["cached_tokens"],
        "responses": lambda: usage["input_tokens_details"]["cached_tokens"],
        "messages": lambda: usage["cache_read_input_tokens"],
    }[endpoint]()
    assert cached >= len(known) - 1
    if text is not None:
        assert "3.0\n</parameter>" in text["prompt"]
        assert "".join(segment["text"] for segment in text["segments"]) == text["prompt"]
    (_, second), _, usage, counted, text = two_turns(tool_model, endpoint, memory_bytes=0)
    assert list(second[: len(known)]) != known
    assert counted == len(second)
    assert text is None or "3\n</parameter>" in text["prompt"]


def test_a_turn_that_was_cut_is_rendered(tool_model) -> None:  # noqa: F811
    """Its tokens lack an end; a stop string is in them, and the client never saw it."""

    async def serve():
        async with in_process(tool_model, {"context_length": 1024}) as served:
            ids = dictate(served, THOUGHT + "So STOP it is")
            prompts = []
            for limit in ({"max_tokens": len(ids) - 3}, {"stop": ["STOP"]}, {}):
                asked = {**BODIES["chat"], **limit}
                answer = (await served.client.post(PATHS["chat"], json=asked)).json()
                message = answer["choices"][0]["message"]
                asked = {
                    **BODIES["chat"],
                    "messages": [*asked["messages"], message, {"role": "system", "content": "x"}],
                }
                prompts.append((await served.client.post("/tokenize", json=asked)).json()["tokens"])
                known = len(served.service._turns._places)
            return prompts, known, served.service.llm.llm.tokenizer

    prompts, known, tokenizer = asyncio.run(serve())
    assert known == 1
    assert "STOP" not in tokenizer.decode(prompts[1])
    assert json.dumps(prompts[0]) != json.dumps(prompts[2])
