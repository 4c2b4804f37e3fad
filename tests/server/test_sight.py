"""What can be seen: health, models, props, metrics, the pages of the API."""

import asyncio
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stepahead.server.metrics import Histogram
from support.served import MODEL, in_process


def served(path, test, **config):
    async def main():
        async with in_process(path, **config) as one:
            return await test(one)

    return asyncio.run(main())


def samples(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_what_happened(chat_model):
    async def test(one):
        before = samples((await one.client.get("/metrics")).text)
        usages = [
            (await one.chat("hello " * n, max_tokens=30, speculation={"depth": 3, "adaptive": False})).json()["usage"]
            for n in (1, 5)
        ]
        await one.chat(temperature=9)
        return before, usages, samples((await one.client.get("/metrics")).text), one.service.llm.llm.metrics

    before, usages, after, engine = served(chat_model, test)
    labels = (("engine", "0"), ("model_name", MODEL))

    def value(name, *more):
        return after[name, tuple(sorted((*labels, *more)))]

    assert before["vllm:generation_tokens_total", labels] == 0
    assert value("vllm:generation_tokens_total") == 60 == sum(one["completion_tokens"] for one in usages)
    assert value("vllm:prompt_tokens_total") == sum(one["prompt_tokens"] for one in usages)
    assert value("vllm:request_success_total", ("finished_reason", "length")) == 2
    for name in ("e2e_request_latency_seconds", "time_to_first_token_seconds", "request_queue_time_seconds"):
        assert value(f"vllm:{name}_count") == 2
    assert value("vllm:inter_token_latency_seconds_count") == 58  # each token after the first counts once
    assert value("vllm:num_requests_running") == value("vllm:num_requests_waiting") == 0
    assert value("vllm:kv_cache_usage_perc") == 0  # what is cached can be had back
    assert value("stepahead:prefix_cache_bytes") > 0 < value("stepahead:prefix_cache_snapshots")
    assert value("stepahead:prefix_cache_prompts_held_total") == 0
    drafted, accepted = value("vllm:spec_decode_num_draft_tokens_total"), engine.num_accepted_tokens
    assert drafted >= value("vllm:spec_decode_num_drafts_total") > 0
    assert value("vllm:spec_decode_num_accepted_tokens_total") == accepted > 0
    name = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    by_position = [value(name, ("position", str(position))) for position in range(3)]
    assert sum(by_position) == accepted and by_position == sorted(by_position, reverse=True)
    assert value("stepahead:http_responses_total", ("status", "400")) == 1
    assert value("stepahead:step_seconds_total", ("part", "forward")) > 0


def test_histograms():
    histogram = Histogram((1, 2, 5))
    for number in (0.5, 1, 1.5, 7):
        histogram.observe(number)
    histogram.observe(3, times=4)
    assert histogram.buckets() == [("1.0", 2), ("2.0", 3), ("5.0", 7), ("+Inf", 8)]
    assert histogram.total == 22


def test_models_and_props(chat_model):
    async def test(one):
        answers = [await one.client.get(path) for path in ("/v1/models", f"/v1/models/{MODEL}", "/props", "/health")]
        missing = await one.client.get("/v1/models/other/one")
        return [answer.json() for answer in answers], missing

    (models, model, props, health), missing = served(chat_model, test)
    assert models["data"] == [model] and "models" not in models  # Codex' own array would replace its instructions
    assert (model["id"], model["object"], model["context_length"]) == (MODEL, "model", 4096)
    assert props["context_length"] == 4096 and props["has_chat_template"] and props["model_path"] == "chat.gguf"
    assert "/" not in props["model_path"] and health == {"status": "ok"}
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"


def test_a_model_without_a_template(model_path):
    async def test(one):
        return (
            await one.chat(),
            (await one.client.get("/props")).json(),
            await one.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 2}),
        )

    refused, props, answer = served(model_path("f32"), test)
    assert refused.status_code == 400 and "no chat template" in refused.json()["error"]["message"]
    assert not props["has_chat_template"] and answer.status_code == 200


@pytest.fixture(scope="module")
def pages(chat_model):
    async def test(one):
        return (await one.client.get("/docs")).text, (await one.client.get("/openapi.json")).json()

    return served(chat_model, test)


def test_the_docs_fetch_nothing(pages):
    page, document = pages
    assert not re.search(r"<script|<link|<img|@import|url\(|//", page)
    for path in document["paths"]:
        assert path in page
    assert "continue_final_message" not in page and "reasoning_effort" in page


def test_every_operation_declares_its_errors(pages):
    _, document = pages
    paths = {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/health", "/tokenize"}
    assert paths <= set(document["paths"])
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert {"400", "401", "403", "404", "405", "413", "415", "500", "503"} <= set(operation["responses"])
            assert "422" not in operation["responses"]
            declared = {parameter["name"] for parameter in operation.get("parameters", ())}
            assert declared == set(re.findall(r"{(\w+)}", path))
            is_stream = path in ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
            assert ("text/event-stream" in operation["responses"]["200"]["content"]) >= is_stream
            assert "requestBody" in operation or method != "post" or "{" in path, path
