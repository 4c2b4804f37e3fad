"""A batch runs so many requests at a time, writes each answer as it comes, and stops where it must."""

import asyncio
import json
from pathlib import Path

import pytest

from stepahead.batch_file import BatchAnswer, BatchInput, BatchOutput, BatchRequest
from stepahead.batch_run import answer_all
from stepahead.errors import StepaheadError


class Server:
    """Answers after so many turns of the loop as a request's body says."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.now = self.most = 0
        self.fails_at: str | None = None

    async def answer(self, request: BatchRequest) -> BatchAnswer:
        self.asked.append(request.custom_id)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            for _ in range(request.body["turns"]):
                await asyncio.sleep(0)
            if request.custom_id == self.fails_at:
                raise StepaheadError("the engine failed")
        finally:
            self.now -= 1
        return BatchAnswer(200, {"echo": request.custom_id})


@pytest.fixture
def requests(tmp_path: Path):
    path = tmp_path / "in.jsonl"
    lines = [
        {"custom_id": str(number), "method": "POST", "url": "/", "body": {"turns": 50 if number == 0 else number % 7}}
        for number in range(40)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with BatchInput(path) as opened:
        yield opened


def custom_ids(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("width", [1, 4, 100])
def test_so_many_run_at_a_time_and_none_waits_for_a_slow_one(requests, tmp_path: Path, width: int) -> None:
    server, told = Server(), []
    with BatchOutput(tmp_path / "out", requests, "m") as output:
        asyncio.run(answer_all(requests, output, server.answer, width, lambda *done: told.append(done)))
    assert sorted(custom_ids(tmp_path / "out"), key=int) == [str(number) for number in range(40)]
    assert min(width, 30) <= server.most <= width  # some are answered at once
    assert server.asked == [str(number) for number in range(40)]
    assert told == [(number, 40) for number in range(41)]
    if width > 1:
        assert custom_ids(tmp_path / "out")[0] != "0"


def test_what_ends_a_run_leaves_the_rest_to_the_next(requests, tmp_path: Path) -> None:
    server, out = Server(), tmp_path / "out"
    server.fails_at = "20"
    with BatchOutput(out, requests, "m") as output, pytest.raises(StepaheadError, match="the engine failed"):
        asyncio.run(answer_all(requests, output, server.answer, 4, lambda *_: None))
    assert server.now == 0, "nobody is left running"
    first = custom_ids(out)
    assert 10 < len(first) < 30 and "20" not in first
    again = Server()
    with BatchOutput(out, requests, "m") as output:
        asyncio.run(answer_all(requests, output, again.answer, 4, lambda *_: None))
    assert sorted(custom_ids(out), key=int) == [str(number) for number in range(40)]
    assert set(again.asked).isdisjoint(first)
