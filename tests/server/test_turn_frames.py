"""What goes wrong while an answer is written: the same on every endpoint, each in its own words."""

import asyncio
import json

import pytest

from stepahead.server.api_error import ApiError
from stepahead.server.errors import UNEXPECTED
from support.served import in_process
from support.turn_script import content, end, steps

BODIES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"prompt": "x"},
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 8},
    "/v1/responses": {"input": "x"},
}
SCRIPTS = {
    "an exception": ([*steps(content("some ", "text")), ZeroDivisionError("secret")], UNEXPECTED),
    "an error of ours": ([*steps(content("some ", "text")), ApiError("overloaded", "too much")], "too much"),
    "a turn that failed": ([*steps(content("some ")), end("error", error="it broke")], "it broke"),
    "a turn that cannot go on": (
        [*steps(content("some ")), end("error", error="its grammar", error_kind="invalid_request")],
        "its grammar",
    ),
    "a turn that failed without a word": ([end("error")], UNEXPECTED),
    "no end": (steps(content("some ", "text")), UNEXPECTED),
    "nothing": ([], UNEXPECTED),
}


def ask(chat_model, path: str, script: list, is_stream: bool):
    async def run(turn):
        for entry in script:
            if isinstance(entry, Exception):
                raise entry
            yield entry

    async def main():
        async with in_process(chat_model) as one:
            one.service.run = run
            return await one.client.post(path, json={**BODIES[path], "stream": is_stream})

    return asyncio.run(main())


def message_of(told: dict) -> str:
    return (told.get("response") or told)["error"]["message"]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("case", SCRIPTS)
def test_a_stream_ends_with_the_error(chat_model, path: str, case: str) -> None:
    script, message = SCRIPTS[case]
    answer = ask(chat_model, path, script, is_stream=True)
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
    data = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert message_of(json.loads(data[-1])) == message
    assert "[DONE]" not in data and "secret" not in answer.text
    assert ("some " in answer.text) == (len(script) > 1)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("case", SCRIPTS)
def test_an_answer_in_one_piece_is_the_error(chat_model, path: str, case: str, caplog) -> None:
    script, message = SCRIPTS[case]
    answer = ask(chat_model, path, script, is_stream=False)
    too_much = 529 if path == "/v1/messages" else 503
    assert answer.status_code == {"an error of ours": too_much, "a turn that cannot go on": 400}.get(case, 500)
    assert message_of(answer.json()) == message
    assert "secret" not in answer.text
