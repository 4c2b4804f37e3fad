"""`stepahead batch`: each line is answered as the server would, once, whatever happens between."""

import json
import os
import random
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


def batch_process(*arguments: object, **popen: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "stepahead.cli", "batch", *map(str, arguments), "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **popen)


def lines_in(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(process: subprocess.Popen, condition) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_runs_that_end_at_any_time_go_on(chat_model: Path, tmp_path: Path) -> None:
    """Ten are killed, one is interrupted: while they load, or some time after they have written a line more."""
    rng = random.Random(5)
    lines = [line(str(n), max_tokens=40, temperature=0, prompt="x" * (n % 50 + 1)) for n in range(150)]
    requests, out = write(tmp_path / "in.jsonl", *lines), tmp_path / "out.jsonl"
    for end in (*[signal.SIGKILL] * 10, signal.SIGINT):
        before = lines_in(out)
        process = batch_process(requests, "-o", out, "-m", chat_model)
        if end == signal.SIGKILL and rng.random() < 0.2:
            time.sleep(rng.random())
        else:
            wait_for(process, lambda before=before: lines_in(out) > before)
            time.sleep(rng.random() * 0.02)
        process.send_signal(end)
        _, told = process.communicate(timeout=60)
        assert process.returncode in (-end, 130 if end == signal.SIGINT else 0, 0)
        assert "Traceback" not in told
    killed = lines_in(out)
    _, told = batch_process(requests, "-o", out, "-m", chat_model).communicate(timeout=120)
    assert told.splitlines()[-1].endswith("150 of 150 in all"), (killed, told)
    assert 3 < killed < 150, "the kills came before the end"
    found = answers(out)
    assert found.keys() == {str(n) for n in range(150)}
    texts = {name: one["response"]["body"]["choices"][0]["text"] for name, one in found.items()}
    assert all(texts[str(n)] == texts[str(n + 50)] for n in range(100)), "the same request has the same answer"


def test_a_full_disk_ends_a_run_and_the_next_goes_on(chat_model: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    lines = [line(str(n), temperature=0) for n in range(40)]
    requests, out = write(tmp_path / "in.jsonl", *lines), tmp_path / "out.jsonl"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))

    process = batch_process(requests, "-o", out, "-m", chat_model, preexec_fn=limit)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    *_, last = told.splitlines()
    count = lines_in(out)
    assert 2 < count < 40 and out.stat().st_size == 5000, "the last line is torn"
    way_out = "make room and give the same command again"
    assert last == f"stepahead: {out}: File too large, after {count} answers: {way_out}", told
    process = batch_process(requests, "-o", out, "-m", chat_model)
    assert process.communicate(timeout=60)[1].splitlines()[-1] == f"{40 - count} requests answered, 40 of 40 in all"
    assert answers(out).keys() == {str(n) for n in range(40)}


def test_a_device_is_no_place_for_answers(cli, chat_model: Path, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    result = cli("batch", write(tmp_path / "in.jsonl", line("a")), "-o", "/dev/full", "--model", chat_model)
    assert result.code == 2 and result.err.count("\n") == 1
    assert "/dev/full: is no ordinary file" in result.err


def test_a_grammar_that_breaks_while_it_is_followed_is_an_error_on_its_line(
    cli, chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one does whose limits are reached in the middle of a text; here, after its third token."""
    pytest.importorskip("llguidance")
    from stepahead.grammar import GrammarError
    from stepahead.grammar.state import GrammarState

    mask = GrammarState.mask

    def breaking(state: GrammarState, logits: object) -> None:
        if state.depth == 3:
            raise GrammarError("the grammar cannot be followed further: a test says so")
        mask(state, logits)

    monkeypatch.setattr(GrammarState, "mask", breaking)
    requests = write(
        tmp_path / "in.jsonl",
        line("before", temperature=0),
        line("broken", guided_regex="aaaaaaaa"),
        line("chat", CHAT, guided_regex="aaaaaaaa"),
        line("never", guided_regex="a(", n=2),
        line("after", guided_regex="aa"),
    )
    result = cli("batch", requests, "-o", tmp_path / "out.jsonl", "--model", chat_model)
    assert result.code == 0 and result.err.splitlines()[-1] == "3 of the answers are errors"
    found = {name: one["response"] for name, one in answers(tmp_path / "out.jsonl").items()}
    for name in ("broken", "chat"):
        assert found[name]["status_code"] == 400
        assert "cannot be followed further: a test says so" in found[name]["body"]["error"]["message"]
    assert found["never"]["status_code"] == 400
    assert found["before"]["status_code"] == found["after"]["status_code"] == 200
    assert found["after"]["body"]["choices"][0]["text"] == "aa"
