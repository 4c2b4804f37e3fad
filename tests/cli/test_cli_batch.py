"""`stepahead batch`: each line is answered as the server would, once, whatever happens between."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def line(custom_id: str, url: str = TEXT, method: str = "POST", **body: object) -> dict[str, object]:
    given = {"prompt": "a"} if url == TEXT else {"messages": [{"role": "user", "content": "a"}]}
    return {"custom_id": custom_id, "method": method, "url": url, "body": {"max_tokens": 6, **given, **body}}


def write(path: Path, *lines: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return path


def answers(path: Path) -> dict[str, dict]:
    found = [json.loads(text) for text in path.read_text().splitlines()]
    assert len({one["custom_id"] for one in found}) == len(found)
    return {one["custom_id"]: one for one in found}


def test_lines_are_answered_and_what_is_wrong_with_one_is_its_answer(cli, chat_model: Path, tmp_path: Path) -> None:
    requests = write(
        tmp_path / "in.jsonl",
        line("chat", CHAT, temperature=0),
        line("text", temperature=0, n=2),
        line("get", method="GET"),
        line("url", "/v1/embeddings"),
        {**line("body"), "body": [1]},
        line("stream", stream=True),
        line("field", tempreature=1),
        line("range", temperature=-1),
        line("huge", temperature=1e400),
        line("long", prompt="a" * 100_000),
    )
    out = tmp_path / "out.jsonl"
    result = cli("batch", requests, "-o", out, "--model", chat_model, "--parallel", "3")
    assert (result.code, result.out) == (0, ""), result.err
    assert result.err.splitlines() == ["10 requests answered, 10 of 10 in all", "8 of the answers are errors"]
    found = answers(out)
    chat, text = found["chat"]["response"], found["text"]["response"]
    assert chat["status_code"] == text["status_code"] == 200
    assert chat["body"]["object"] == "chat.completion" and chat["body"]["choices"][0]["message"]["role"] == "assistant"
    assert text["body"]["object"] == "text_completion" and len(text["body"]["choices"]) == 2
    assert chat["body"]["model"] == chat_model.stem
    params = {name: found[name]["response"]["body"]["error"]["param"] for name in found.keys() - {"chat", "text"}}
    assert all(found[name]["response"]["status_code"] == 400 for name in params)
    assert params == {
        "get": "method", "url": "url", "body": "body", "stream": "body.stream", "field": "tempreature",
        "range": "temperature", "huge": None, "long": params["long"],
    }  # fmt: skip
    assert all(one["error"] is None for one in found.values())
    # Once more: nothing is left to be done, and nothing is loaded for it.
    before = out.read_bytes()
    result = cli("batch", requests, "-o", out, "--model", chat_model)
    assert (result.code, result.err) == (0, "") and out.read_bytes() == before


def test_texts_do_not_depend_on_width(cli, chat_model: Path, tmp_path: Path) -> None:
    lines = [line(str(n), prompt="abc"[: n % 3 + 1] * (n + 1), max_tokens=12, seed=n) for n in range(12)]
    requests, texts = write(tmp_path / "in.jsonl", *lines), []
    for parallel in (1, 5):
        out = tmp_path / f"out{parallel}"
        assert cli("batch", requests, "-o", out, "--model", chat_model, "--parallel", str(parallel)).code == 0
        texts.append({name: one["response"]["body"]["choices"][0]["text"] for name, one in answers(out).items()})
    assert texts[0] == texts[1] and len(set(texts[0].values())) > 3


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"{}\n", (), "line 1 has no custom_id"),
        (b"", (), "there is no request in it"),
        (json.dumps(line("a")).encode(), ("--parallel", "0"), "max_num_seqs=0"),
        (json.dumps(line("a")).encode(), ("-o", "/none/out"), "/none/out: no answers can be written there"),
        (json.dumps(line("a")).encode(), ("--model", "none.gguf"), "none.gguf"),
    ],
)
def test_mistakes_are_one_line(cli, tmp_path: Path, chat_model: Path, content, arguments, message) -> None:
    requests = tmp_path / "in.jsonl"
    requests.write_bytes(content)
    result = cli("batch", requests, "-o", tmp_path / "out.jsonl", "--model", chat_model, *arguments)
    assert result.code == 2 and result.out == ""
    assert message in result.err.splitlines()[-1] and result.err.splitlines()[-1].startswith("stepahead: ")


def test_a_run_that_is_killed_goes_on(chat_model: Path, tmp_path: Path) -> None:
    lines = [line(str(n), max_tokens=40, temperature=0, prompt="x" * (n % 50 + 1)) for n in range(60)]
    requests, out = write(tmp_path / "in.jsonl", *lines), tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "stepahead.cli", "batch", requests, "-o", out, "-m", chat_model, "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for end, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)):
        before = out.read_bytes().count(b"\n") if out.exists() else 0
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not out.exists() or out.read_bytes().count(b"\n") < before + 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(end)
        assert process.wait() in (code, 0)
        assert process.stderr is not None
        told = process.stderr.read().decode()
        process.stderr.close()
        assert "Traceback" not in told
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert answers(out).keys() == {str(n) for n in range(60)}
