"""A grammar that cannot be followed further ends its own request, with one clear error in each endpoint's shape."""

import asyncio
import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

pytest.importorskip("llguidance", reason="grammars need llguidance: pip install 'stepahead[server]'")

from stepahead.batch_file import BatchRequest
from stepahead.grammar import GrammarError
from stepahead.server.batch import answer
from support.served import in_process

WHY = "the grammar cannot be followed further: too many states"
MARKED, BESIDE = 666, 1  # the seeds of requests whose grammar fails, and of others
DEEP = {"speculation": {"mode": "mtp", "depth": 2, "adaptive": False}}
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}
PATHS = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "hi", "max_tokens": 20},
    "/v1/responses": {"input": "hi", "max_output_tokens": 20},
    "/v1/messages": CHAT,
}


@dataclass(frozen=True)
class Failing:
    """Allows everything for three tokens; then `where` raises."""

    where: str
    depth: int = 0
    warnings: tuple[str, ...] = ()

    def mask(self, logits: Any) -> None:
        self._check("mask")

    def advance(self, token_id: int) -> "Failing":
        self._check("advance")
        return replace(self, depth=self.depth + 1)

    @property
    def is_finished(self) -> bool:
        self._check("is_finished")
        return False

    def _check(self, where: str) -> None:
        if where == self.where and self.depth >= 3:
            raise GrammarError(WHY)


def said_in(path: str, text: str) -> dict:
    """The error that a stream ends with."""
    frames = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert sum("error" in frame or frame.get("type") == "response.failed" for frame in frames) == 1
    last = frames[-1]
    return last["response"]["error"] if path == "/v1/responses" else last["error"]


@pytest.mark.parametrize("drafting", [{}, DEEP], ids=["auto", "deep"])
@pytest.mark.parametrize("where", ["mask", "advance", "is_finished"])
def test_it_ends_its_request_alone(chat_model, where: str, drafting: dict) -> None:
    """Also where another request, whose grammar allows everything, is drafted for beside it."""

    async def serve():
        async with in_process(chat_model) as served:
            post = served.client.post

            def grammar(request, is_reasoning):
                return Failing(where if request.params.seed == MARKED else "nowhere")

            served.service._grammar = grammar
            other = {**CHAT, **drafting, "seed": BESIDE}
            alone = (await post("/v1/chat/completions", json=other)).json()
            for path, body in PATHS.items():
                asked = {**body, **drafting, "seed": MARKED, "ignore_eos": True}
                streamed, whole, beside = await asyncio.gather(
                    post(path, json={**asked, "stream": True}),
                    post(path, json=asked),
                    post("/v1/chat/completions", json=other),
                )
                assert streamed.status_code == 200
                assert WHY in said_in(path, streamed.text)["message"], path
                assert whole.status_code >= 400
                assert WHY in whole.json()["error"]["message"], path
                assert beside.json()["choices"] == alone["choices"]
            line = BatchRequest(1, "a", "POST", "/v1/chat/completions", {**CHAT, "seed": MARKED, "ignore_eos": True})
            failed = await answer(served.service, line)
            assert failed.status_code >= 400
            assert WHY in failed.body["error"]["message"]
            await served.until_idle()
            assert served.num_used_blocks == 0

    asyncio.run(serve())
