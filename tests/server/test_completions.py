"""Text completions, by the real client where it matters; tokens and templates."""

import asyncio
import json

import openai
import pytest

from stepahead import LLM, SamplingParams
from support.served import MODEL, in_process

GREEDY = {"model": MODEL, "prompt": "def f(", "max_tokens": 8, "temperature": 0}


def served(chat_model, test, **config):
    async def main():
        async with in_process(chat_model, **config) as one:
            return await test(one)

    return asyncio.run(main())


def by_client(chat_model, test):
    async def with_client(one):
        client = openai.AsyncOpenAI(api_key="none", base_url="http://localhost/v1", http_client=one.client)
        return await test(client)

    return served(chat_model, with_client)


@pytest.fixture(scope="module")
def solo(chat_model):
    with LLM(chat_model, threads=1) as llm:
        return {text: llm.generate(text, SamplingParams(max_tokens=8)).text for text in ("def f(", "class A")}


def test_a_completion_and_its_stream(chat_model, solo):
    async def test(client):
        whole = await client.completions.create(**GREEDY)
        stream = await client.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True})
        return whole, [chunk async for chunk in stream]

    whole, chunks = by_client(chat_model, test)
    assert whole.object == "text_completion" and whole.model == MODEL
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == (solo["def f("], "length")
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == solo["def f("]
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert whole.usage.completion_tokens == 8


def test_many_prompts_of_all_kinds(chat_model, solo):
    async def test(client):
        ids = list(b"class A")  # this vocabulary begins with the bytes
        asked = {**GREEDY, "prompt": ["def f(", "class A"], "n": 2}
        texts = await client.completions.create(**asked)
        by_ids = await client.completions.create(**{**GREEDY, "prompt": ids})
        mixed = await client.completions.create(**{**GREEDY, "prompt": [ids, ids]})
        return texts, by_ids, mixed

    texts, by_ids, mixed = by_client(chat_model, test)
    expected = [solo["def f("]] * 2 + [solo["class A"]] * 2
    assert [choice.text for choice in texts.choices] == expected
    assert [choice.index for choice in texts.choices] == [0, 1, 2, 3]
    assert by_ids.choices[0].text == mixed.choices[1].text == solo["class A"]


@pytest.mark.parametrize("is_stream", [True, False])
def test_echo(chat_model, solo, is_stream):
    async def test(client):
        answer = await client.completions.create(**GREEDY, echo=True, stream=is_stream)
        return "".join([c.choices[0].text async for c in answer]) if is_stream else answer.choices[0].text

    assert by_client(chat_model, test) == "def f(" + solo["def f("]


def test_logprobs(chat_model):
    answer = by_client(chat_model, lambda client: client.completions.create(**GREEDY, logprobs=2)).choices[0]
    told = answer.logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset) == 8
    assert "".join(told.tokens) == answer.text
    assert all(value == max(best.values()) for value, best in zip(told.token_logprobs, told.top_logprobs, strict=True))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt[1]"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [-1]}, None),
        ({"prompt": [10**30]}, None),
        ({"prompt": ""}, None),
        ({"prompt": ["a"] * 9}, "n"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "logprobs"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "messages": []}, "messages"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a" * 5000}, "messages"),
    ],
)
def test_what_is_wrong_is_named(chat_model, body, param):
    answer = served(chat_model, lambda one: one.client.post("/v1/completions", json=body))
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["type"] == "invalid_request_error"
    assert param is None or error["param"] == param


def test_steps_of_a_stream(chat_model, solo):
    async def test(one):
        return await one.client.post("/v1/completions", json={**GREEDY, "stream": True, "stepahead": {"steps": True}})

    text = served(chat_model, test).text
    chunks = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    told = [chunk["stepahead"] for chunk in chunks if "stepahead" in chunk]
    assert sum(step["num_tokens"] for step in told) == 8
    assert "".join("".join(step["pieces"]) for step in told) == solo["def f("]
    assert chunks[-1]["metrics"]["tokens_per_second"] > 0


def test_a_stream_says_that_it_waits_for_a_place(chat_model, solo):
    async def test(one):
        one.slow_down(0.02)
        body = {**GREEDY, "speculation": {"mode": "off"}}
        first = asyncio.create_task(one.client.post("/v1/completions", json={**body, "max_tokens": 40}))
        while one.service.llm.num_running == 0:
            await asyncio.sleep(0.002)
        waits = await one.client.post("/v1/completions", json={**body, "stream": True, "return_progress": True})
        return waits.text, (await first).status_code

    text, status = served(chat_model, test, load={"max_num_seqs": 1})
    chunks = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    told = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
    assert status == 200
    assert told[0] == {"total": 6, "cache": 0, "processed": 0, "queued": True}
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == solo["def f("]


def test_tokens_there_and_back(chat_model):
    async def test(one):
        post = one.client.post
        tokens = (await post("/tokenize", json={"content": "the <|im_end|>", "with_pieces": True})).json()["tokens"]
        ids = [token["id"] for token in tokens]
        plain = (await post("/tokenize", json={"prompt": "<|im_end|>", "parse_special": False})).json()
        back = (await post("/detokenize", json={"tokens": ids})).json()
        wrong = [
            await post("/tokenize", json={}),
            await post("/tokenize", json={"content": "a", "frobnicate": 1}),
            await post("/detokenize", json={"tokens": ["a"]}),
            await post("/detokenize", json={"tokens": [10**9]}),
            await post("/detokenize", json={}),
            await post("/apply-template", json={"messages": []}),
        ]
        return tokens, plain, back, [answer.status_code for answer in wrong]

    tokens, plain, back, codes = served(chat_model, test)
    assert "".join(token["piece"] for token in tokens) == back["content"] == "the <|im_end|>"
    assert plain["count"] == len(plain["tokens"]) == len("<|im_end|>") and plain["max_model_len"] == 4096
    assert codes == [400] * 6
