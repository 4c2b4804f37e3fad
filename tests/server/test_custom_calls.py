"""Custom tools of /v1/responses whose input follows a grammar: followed, told, or refused with its place."""

import asyncio
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("llguidance", reason="grammars need llguidance: pip install 'stepahead[server]'")

from test_dictated_turns import tool_model  # noqa: F401 (a fixture)

from stepahead.server.responses import router
from stepahead.turns.output_format import GrammarText
from support.served import in_process
from support.turn_script import ScriptedService, application, end, post

AGENTS = Path(__file__).parents[1] / "data" / "agents"
APPLY_PATCH = (AGENTS / "apply_patch.lark").read_text(encoding="utf-8")
CODEX = json.loads((AGENTS / "codex.json").read_text())
SHORT = 'start: "*** Begin" LF ("+" /[a-c]{1,3}/ LF){1,2} "*** End"\nLF: /\\n/'
PATH = "/v1/responses"


def custom(definition: str | None, syntax: str | None = "lark", **changes) -> dict:
    grammar = {"type": "grammar", "syntax": syntax, "definition": definition}
    return {"type": "custom", "name": "apply_patch", "description": "Edits.", "format": grammar, **changes}


def asked(tool: dict):
    service = ScriptedService([end()])
    done = post(application(router, service), PATH, {"input": "hi", "tools": [tool]})
    return (service.asked[0] if done.status_code == 200 else None), done


def test_a_grammar_is_shown_and_followed() -> None:
    request, done = asked(custom(APPLY_PATCH))
    (tool,) = request.tools
    assert tool.grammar == GrammarText("lark", APPLY_PATCH)
    assert tool.is_strict
    assert tool.place == "tools[0]"
    assert APPLY_PATCH in tool.parameters["properties"]["input"]["description"]
    assert "x-stepahead-ignored" not in done.headers
    for free in (custom(None, format={"type": "text"}), custom(None, format=None)):
        (tool,) = asked(free)[0].tools
        assert (tool.grammar, tool.is_strict) == (None, False)


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        (custom(None), "tools[0].format.definition"),
        (custom("start: A", None), "tools[0].format.syntax"),
        (custom("start: A", "yacc"), "tools[0].format.syntax"),
        (custom("", format={"type": "xml"}), "tools[0].format.type"),
        (custom("", format="lark"), "tools[0].format"),
    ],
)
def test_what_is_no_format_is_refused(tool: dict, param: str) -> None:
    _, done = asked(tool)
    assert done.status_code == 400
    assert done.json()["error"]["param"] == param


def test_calls_of_a_model(tool_model) -> None:  # noqa: F811
    async def serve():
        async with in_process(tool_model, {"context_length": 4096}) as served:
            (close,) = served.service.llm.llm.tokenizer.encode("</think>", add_bos=False)
            more = {"input": "hi", "logit_bias": {str(close): 9}, "parallel_tool_calls": False}
            chosen = {"tool_choice": {"type": "custom", "name": "apply_patch"}}
            space = {"type": "namespace", "name": "files", "tools": [custom('start: "a" LF')]}
            codex = {**CODEX, "max_output_tokens": 9, "stream": False}
            codex["tools"] = [tool for tool in CODEX["tools"] if tool["type"] != "custom"] + [custom(APPLY_PATCH)]
            calls = [
                await served.client.post(PATH, json={**more, **chosen, "tools": [custom(*grammar)], "seed": seed})
                for grammar in ((SHORT,), (r"x[0-9]{2,4}\n?", "regex"))
                for seed in range(3)
            ]
            refused = await served.client.post(PATH, json={**more, "tools": [CODEX["tools"][0], space]})
            free = await served.client.post(
                PATH, json={**more, "tools": [custom("start: /(.|\\n)*/")]} | {"max_output_tokens": 3}
            )
            return calls, refused, free, await served.client.post(PATH, json=codex)

    calls, refused, free, codex = asyncio.run(serve())
    for number, done in enumerate(calls):
        item = done.json()["output"][-1]
        assert (item["type"], item["name"], item["status"]) == ("custom_tool_call", "apply_patch", "completed")
        pattern = r"\*\*\* Begin\n(\+[a-c]{1,3}\n){1,2}\*\*\* End" if number < 3 else r"x[0-9]{2,4}\n?"
        assert re.fullmatch(pattern, item["input"])
        assert "x-stepahead-ignored" not in done.headers
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["param"] == "tools[1].tools[0].format.definition"
    assert error["message"].startswith(error["param"])
    assert free.headers["x-stepahead-ignored"].startswith("tools[0].format: not enforced")
    assert codex.status_code == 200, codex.text
    assert "format" not in codex.headers["x-stepahead-ignored"]
