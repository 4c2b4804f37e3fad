"""Calls that go wrong or are cut off, at every endpoint, streamed and in one piece: the model says what it is told."""

import asyncio
import json
from pathlib import Path

import pytest

from stepahead.batch_file import BatchRequest
from stepahead.gguf import write_gguf
from stepahead.server.batch import answer
from support.dictation import dictate
from support.random_step35 import Shape, metadata, model_tensors
from support.served import in_process

TEMPLATE = (Path(__file__).parents[1] / "tokenizer" / "data" / "step_like.jinja").read_text()
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}, "line": {"type": "integer"}}}
MESSAGES = [{"role": "user", "content": "hi"}]
BODIES = {
    "chat": {
        "messages": MESSAGES,
        "tools": [{"type": "function", "function": {"name": "write", "parameters": SCHEMA}}],
    },
    "responses": {"input": MESSAGES, "tools": [{"type": "function", "name": "write", "parameters": SCHEMA}]},
    "messages": {
        "messages": MESSAGES,
        "tools": [{"name": "write", "input_schema": SCHEMA}],
        "thinking": {"type": "adaptive"},
        "max_tokens": 500,
    },
}
BODIES["batch"] = BODIES["chat"]
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
LIMITS = {"chat": "max_tokens", "batch": "max_tokens", "responses": "max_output_tokens", "messages": "max_tokens"}
ENDINGS = {"chat": ("stop", "length", "tool_calls"), "responses": ("completed", "incomplete", "completed")}
ENDINGS |= {"batch": ENDINGS["chat"], "messages": ("end_turn", "max_tokens", "tool_use")}

THOUGHT = "Hm.\n</think>\n"
GOOD = "<tool_call>\n<function=write>\n<parameter=path>\na\n</parameter>\n</function>\n</tool_call>"
BROKEN = "<tool_call>\n<function=write>\n<parameter=path>\nb\n</parameter>\noops</function>\n</tool_call>"
CUT = "<tool_call>\n<function=write>\n<parameter=path>\nb <c>"
CLOSED = "<tool_call>\n<function=write>\n<parameter=line>\n3\n</parameter>\n</function>"


@pytest.fixture(scope="module")
def tool_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("tools") / "tools.gguf"
    shape = Shape()
    write_gguf(path, {**metadata(shape), "tokenizer.chat_template": TEMPLATE}, dict(model_tensors(shape)))
    return path


def run(path, work):
    async def serve():
        async with in_process(path, {"context_length": 1024}) as served:
            return await work(served)

    return asyncio.run(serve())


def whole_of(endpoint: str, body: dict) -> tuple[str, list[dict], str]:
    """(content, arguments of each call, how it ended) of an answer in one piece."""
    if endpoint in ("chat", "batch"):
        (choice,) = body["choices"]
        message = choice["message"]
        calls = [json.loads(call["function"]["arguments"]) for call in message.get("tool_calls", [])]
        return message["content"] or "", calls, choice["finish_reason"]
    if endpoint == "responses":
        texts = [part["text"] for item in body["output"] if item["type"] == "message" for part in item["content"]]
        calls = [json.loads(item["arguments"]) for item in body["output"] if item["type"] == "function_call"]
        return "".join(texts), calls, body["status"]
    texts = [block["text"] for block in body["content"] if block["type"] == "text"]
    return "".join(texts), [block["input"] for block in body["content"] if "input" in block], body["stop_reason"]


def stream_of(endpoint: str, text: str) -> tuple[str, list[str], str]:
    """(content, arguments of each call as they came, how it ended) of a stream."""
    frames = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    content, calls, ended = "", {}, ""
    for frame in frames:
        if endpoint == "chat":
            delta, ended = frame["choices"][0]["delta"], frame["choices"][0]["finish_reason"] or ended
            content += delta.get("content") or ""
            for call in delta.get("tool_calls", []):
                calls[call["index"]] = calls.get(call["index"], "") + call["function"]["arguments"]
        elif endpoint == "responses":
            content += frame["delta"] if frame["type"] == "response.output_text.delta" else ""
            if frame["type"] == "response.function_call_arguments.delta":
                calls[frame["item_id"]] = calls.get(frame["item_id"], "") + frame["delta"]
            ended = frame.get("response", {}).get("status", ended)
        else:
            delta = frame.get("delta", {})
            content += delta.get("text", "")
            if "partial_json" in delta:
                calls[frame["index"]] = calls.get(frame["index"], "") + delta["partial_json"]
            ended = delta.get("stop_reason") or ended
    return content, list(calls.values()), ended


async def ask(served, endpoint: str, is_streamed: int, limit: int | None = None):
    body = {**BODIES[endpoint], "temperature": 0} | ({} if limit is None else {LIMITS[endpoint]: limit})
    if endpoint == "batch":
        return (await answer(served.service, BatchRequest(1, "1", "POST", PATHS["chat"], body))).body
    done = await served.client.post(PATHS[endpoint], json={**body, "stream": bool(is_streamed)})
    assert done.status_code == 200, done.text
    return done.text if is_streamed else done.json()


# What is said, how many tokens before its end it is cut (None: it ends itself); content and calls in one piece,
# content and calls in a stream; which of the ENDINGS, of both.
CASES = {
    "good": (f"So.{GOOD}", None, ("So.", [{"path": "a"}]), ("So.", ['{"path":"a"}']), (2, 2)),
    "broken": (f"So.{BROKEN}", None, (f"So.{BROKEN}", []), (
        "So.oops</function>\n</tool_call>", ['{"path":"b"}']), (0, 2)),
    "good, then broken": (GOOD + BROKEN, None, (BROKEN, [{"path": "a"}]), (
        "oops</function>\n</tool_call>", ['{"path":"a"}', '{"path":"b"}']), (2, 2)),
    "no name": ("So.<tool_call>\n<function=", None, ("So.<tool_call>\n<function=", []), (
        "So.<tool_call>\n<function=", []), (0, 0)),
    "ended within": (f"So.{CUT}", None, (f"So.{CUT}", []), ("So.", ['{"path":"b <c>']), (0, 0)),
    "ended after </function>": (CLOSED, None, ("", [{"line": 3}]), ("", ['{"line":3}']), (2, 2)),
    "cut by length": (f"So.{CUT}", 0, (f"So.{CUT}", []), ("So.", ['{"path":"b <c>']), (1, 1)),
    "good, then cut": (GOOD + CUT, 0, (CUT, [{"path": "a"}]), ("", ['{"path":"a"}', '{"path":"b <c>']), (1, 1)),
    "cut before the name": (f"So.{CUT[:20]}", 0, (f"So.{CUT[:20]}", []), (f"So.{CUT[:20]}", []), (1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("endpoint", LIMITS)
def test_the_fate_of_calls(tool_model, endpoint: str) -> None:
    async def work(served):
        answers = {}
        for name, (said, cut, *_) in CASES.items():
            ids = dictate(served, THOUGHT + said)
            limit = None if cut is None else len(ids) - cut
            has_stream = endpoint != "batch"
            answers[name] = [await ask(served, endpoint, is_streamed, limit) for is_streamed in range(1 + has_stream)]
        return answers

    for name, (whole, *streams) in run(tool_model, work).items():
        _, _, expected, expected_stream, endings = CASES[name]
        assert whole_of(endpoint, whole) == (*expected, ENDINGS[endpoint][endings[0]]), name
        for one in streams:
            assert stream_of(endpoint, one) == (*expected_stream, ENDINGS[endpoint][endings[1]]), name
