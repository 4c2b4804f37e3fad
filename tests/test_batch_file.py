"""Batch files: what is wrong is named by line, nothing is lost or doubled, whenever a run ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepahead.batch_file import BatchAnswer, BatchInput, BatchOutput
from stepahead.errors import ConfigError, StepaheadError

OK = BatchAnswer(200, {"object": "chat.completion", "choices": [{"text": 'lines\nand \u2028 quotes"'}]})


def request(custom_id: str = "a", **changes: object) -> dict[str, object]:
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}, **changes}


@pytest.fixture
def opened():
    found: list[BatchInput] = []

    def open_input(path: Path) -> BatchInput:
        found.append(BatchInput(path))
        return found[-1]

    yield open_input
    for one in found:
        one.__exit__(None, None, None)


@pytest.fixture
def source(tmp_path: Path):
    def write(*lines: object) -> Path:
        path = tmp_path / "in.jsonl"
        texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
        path.write_bytes(b"\n".join(texts) + b"\n")
        return path

    return write


def answers(path: Path) -> list[dict[str, object]]:
    data = path.read_bytes()
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


# --- requests ---
def test_requests_come_as_they_stand(source) -> None:
    path = source(request("a"), b"", request("b", body=[1], url=7), b"  ", request("\u00e9\ud800", method=None))
    with BatchInput(path) as requests:
        assert len(requests) == 3
        first, second, third = requests
        assert (first.number, first.custom_id, first.body) == (1, "a", {"prompt": "x"})
        assert (second.number, second.url, second.body) == (3, 7, [1])
        assert (third.number, third.custom_id, third.method) == (5, "\u00e9\ud800", None)
        assert [one.custom_id for one in requests] == ["a", "b", "\u00e9\ud800"]  # once more


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2 is no JSON"),
        (b"\xff{}", "line 2 is no JSON"),
        (b"[" * 100_000, "line 2 is no JSON"),
        (b"[1]", "line 2 is no JSON object"),
        (request(custom_id=None), "line 2 has no custom_id"),
        (request(custom_id=""), "line 2 has no custom_id"),
        (request(custom_id="x" * 600), "line 2 has no custom_id"),
        (request("a"), "line 2 has the custom_id of line 1"),
    ],
)
def test_a_line_that_is_no_request_is_named_before_anything_runs(source, line, message) -> None:
    with pytest.raises(ConfigError, match=f"in.jsonl: {message}.*nothing was run"):
        BatchInput(source(request("a"), line, request("c")))


def test_what_is_no_file_of_requests_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.jsonl: cannot be read \(No such file"):
        BatchInput(tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="cannot be read"):
        BatchInput(tmp_path)
    (tmp_path / "empty").write_bytes(b"\n\n")
    with pytest.raises(ConfigError, match="empty: there is no request in it"):
        BatchInput(tmp_path / "empty")


# --- answers ---
def test_answers_have_the_format(source, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with BatchInput(source(request("a"), request("b"))) as requests, BatchOutput(path, requests, "m") as output:
        output.write("a", OK)
        assert len(answers(path)) == 1, "there at once"
        output.write("b", None, {"code": "internal", "message": "no"})
    first, second = answers(path)
    assert first.keys() == second.keys() == {"id", "custom_id", "response", "error"}
    assert first["response"] == {"status_code": 200, "request_id": first["response"]["request_id"], "body": OK.body}
    assert first["error"] is None and first["id"].startswith("batch_req_") and first["id"] != second["id"]
    assert second["response"] is None and second["error"] == {"code": "internal", "message": "no"}


@pytest.mark.parametrize("torn", [b"", b'{"id":"batch', b'{"id":1,"custom_id":"b"}', b"\0\0\0\0\n", b'{"id":\n'])
def test_a_run_goes_on_where_it_ended(source, opened, tmp_path: Path, torn: bytes) -> None:
    requests, path = opened(source(request("a"), request("b"))), tmp_path / "out.jsonl"
    with BatchOutput(path, requests, "m") as output:
        output.write("a", OK)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with BatchOutput(path, requests, "m") as output:
        assert output.done == {"a"} and output.num_dropped == len(torn)
        assert path.read_bytes() == whole
        output.write("b", OK)
    assert [answer["custom_id"] for answer in answers(path)] == ["a", "b"]


def test_each_place_of_a_kill_loses_no_line_and_doubles_none(source, opened, tmp_path: Path) -> None:
    requests, path = opened(source(*(request(name) for name in "abc"))), tmp_path / "out.jsonl"
    with BatchOutput(path, requests, "m") as output:
        for name in "abc":
            output.write(name, OK)
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with BatchOutput(path, requests, "m") as output:
            assert len(output.done) == whole[:length].count(b"\n")
            for one in requests:
                if one.custom_id not in output.done:
                    output.write(one.custom_id, OK)
        assert sorted(str(answer["custom_id"]) for answer in answers(path)) == ["a", "b", "c"]


def test_a_broken_line_in_the_middle_is_named_not_dropped(source, opened, tmp_path: Path) -> None:
    requests, path = opened(source(request("a"))), tmp_path / "out.jsonl"
    with BatchOutput(path, requests, "m") as output:
        output.write("a", OK)
    whole = path.read_bytes()
    path.write_bytes(b"{broken\n" + whole)
    with pytest.raises(ConfigError, match=r"out.jsonl: line 1 is no answer"):
        BatchOutput(path, requests, "m")
    assert path.read_bytes() == b"{broken\n" + whole


def test_answers_to_other_requests_or_of_another_model_are_left_alone(source, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with BatchInput(source(request("a"))) as requests, BatchOutput(path, requests, "m") as output:
        output.write("a", OK)
    whole = path.read_bytes()
    with BatchInput(source(request("a"))) as requests, pytest.raises(ConfigError, match="answers of 'm', not of 'n'"):
        BatchOutput(path, requests, "n")
    with BatchInput(source(request("z"))) as requests:
        with pytest.raises(ConfigError, match=r"out.jsonl: holds answers to other requests: give another file"):
            BatchOutput(path, requests, "m")
        (tmp_path / "out.jsonl.batch").unlink()
        with pytest.raises(ConfigError, match=r"holds something, and no out.jsonl.batch says what"):
            BatchOutput(path, requests, "m")
        assert path.read_bytes() == whole
        with BatchOutput(tmp_path / "new", requests, "m") as output:
            assert output.done == set()


def test_files_that_cannot_be_written_to(source, tmp_path: Path) -> None:
    with BatchInput(source(request("a"))) as requests:
        with pytest.raises(ConfigError, match=r"in.jsonl: holds the requests"):
            BatchOutput(requests.path, requests, "m")
        with pytest.raises(ConfigError, match="no answers can be written there"):
            BatchOutput(tmp_path / "none" / "out.jsonl", requests, "m")
        with pytest.raises(ConfigError, match="is no ordinary file"):
            BatchOutput(Path("/dev/null"), requests, "m")
        with (
            BatchOutput(tmp_path / "out.jsonl", requests, "m"),
            pytest.raises(ConfigError, match="another process is writing"),
        ):
            BatchOutput(tmp_path / "out.jsonl", requests, "m")


def test_a_full_disk_leaves_whole_lines(source, opened, tmp_path: Path, monkeypatch) -> None:
    requests, path = opened(source(request("a"), request("b"))), tmp_path / "out.jsonl"
    real = os.write
    room = 300

    def write(descriptor: int, data: bytes) -> int:
        nonlocal room
        if room == 0:
            raise OSError(28, "No space left on device")
        count = real(descriptor, data[:room])
        room -= count
        return count

    with BatchOutput(path, requests, "m") as output:
        monkeypatch.setattr(os, "write", write)
        output.write("a", OK)
        with pytest.raises(StepaheadError, match=r"out.jsonl: No space left on device, after 1 answers: make room"):
            output.write("b", OK)
    monkeypatch.undo()
    assert not path.read_bytes().endswith(b"\n")
    with BatchOutput(path, requests, "m") as output:
        assert output.done == {"a"} and output.num_dropped > 0


KILLED = """
import sys
from pathlib import Path
from stepahead.batch_file import *
with BatchInput(Path(sys.argv[1])) as requests, BatchOutput(Path(sys.argv[2]), requests, "m") as output:
    for one in requests:
        if one.custom_id not in output.done:
            output.write(one.custom_id, BatchAnswer(200, {"text": "x" * 5000}))
"""


def test_kills_lose_no_line_and_double_none(source, tmp_path: Path) -> None:
    names = [f"r{number}" for number in range(400)]
    path, out = source(*(request(name) for name in names)), tmp_path / "out.jsonl"
    command = [sys.executable, "-c", KILLED, str(path), str(out)]
    for number in range(6):
        before = out.stat().st_size if out.exists() else 0
        process = subprocess.Popen(command)
        while process.poll() is None and (not out.exists() or out.stat().st_size < before + 50_000 * (number + 1)):
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True)
    assert sorted(str(answer["custom_id"]) for answer in answers(out)) == sorted(names)
