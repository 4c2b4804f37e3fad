"""Over real sockets: clients that leave, that do not read, that do not send; many at once; the end of the server."""

import asyncio
import json
import random
import signal
import socket
import time

import pytest
from uvicorn.protocols.http.h11_impl import H11Protocol

from stepahead import LLM, SamplingParams
from stepahead.cli import main
from stepahead.server.endpoint import EndpointSettings
from support.served import listening, serve_process

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def served(chat_model, test, **config):
    async def main():
        async with listening(chat_model, **config) as one:
            return await test(one)

    return asyncio.run(main())


def body_of(content="hello", **fields):
    messages = [{"role": "user", "content": content}]
    return {"messages": messages, "max_tokens": 3000, "temperature": 0, "ignore_eos": True, **fields}


async def raw(one, data):
    """A connection that has sent data."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(one.url.rpartition(":")[2]))
    writer.write(data)
    await writer.drain()
    return reader, writer


def posted(body):
    data = json.dumps(body).encode()
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data


async def until(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_leaves_ends_its_request(chat_model, is_stream):
    async def test(one):
        one.slow_down(0.01)
        _, writer = await raw(one, posted(body_of(stream=is_stream)))
        await until(lambda: one.service.llm.num_running == 1)
        await asyncio.sleep(0.1)
        writer.close()
        seconds = await one.until_idle()
        return seconds, one.num_used_blocks, one.service.metrics.finished["abort"]

    seconds, num_used, num_aborted = served(chat_model, test)
    assert seconds < 1.0  # 3000 steps of 10 ms were asked for
    assert (num_used, num_aborted) == (0, 1)


def test_no_piece_of_an_answer_waits_for_an_acknowledgement(chat_model, monkeypatch):
    """As it would with Nagle's algorithm and a client that acknowledges late: 40 ms on each request but the first."""
    transports, connected = [], H11Protocol.connection_made

    def noting(protocol, transport):
        transports.append(transport)
        connected(protocol, transport)

    monkeypatch.setattr(H11Protocol, "connection_made", noting)

    async def test(one):
        await one.client.get("/health")
        return [each.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in transports]

    set_on = served(chat_model, test)
    assert set_on and all(set_on)


def test_a_client_that_leaves_while_it_waits(chat_model):
    async def test(one):
        one.slow_down(0.01)
        first = asyncio.create_task(one.client.post("/v1/chat/completions", json=body_of(max_tokens=40)))
        await until(lambda: one.service.llm.num_running == 1)
        _, writer = await raw(one, posted(body_of(stream=True)))
        await until(lambda: len(one.service.llm.waiting) == 1)
        writer.close()
        await until(lambda: not one.service.llm.waiting)
        return (await first).status_code, await one.until_idle(), one.num_used_blocks

    status, _, num_used = served(chat_model, test, load={"max_num_seqs": 1})
    assert (status, num_used) == (200, 0)


def test_a_client_that_does_not_read_is_ended(chat_model):
    async def test(one):
        body = body_of(stream=True, max_tokens=4000, logprobs=True, top_logprobs=20, n=8)
        connection = socket.create_connection(("127.0.0.1", int(one.url.rpartition(":")[2])))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.to_thread(connection.sendall, posted(body))
        await until(lambda: one.service.llm.num_running == 8)
        await one.until_idle(30)
        connection.close()
        return one.num_used_blocks, one.service.metrics.finished

    settings = EndpointSettings(keepalive_seconds=0.2, stall_seconds=0.3)
    num_used, finished = served(chat_model, test, endpoints=settings)
    assert num_used == 0 and finished["abort"] > 0


def test_silence_is_bridged(chat_model):
    async def test(one):
        one.slow_down(0.7)
        async with one.client.stream("POST", "/v1/chat/completions", json=body_of(stream=True, max_tokens=2)) as answer:
            return b"".join([chunk async for chunk in answer.aiter_bytes()])

    text = served(chat_model, test)
    assert text.count(b": keepalive\n\n") >= 2
    assert text.endswith(b"data: [DONE]\n\n")


def test_half_a_request_is_not_waited_for(chat_model):
    async def test(one):
        answers = []
        for data in (b"", b"GET /health HT", HEAD, HEAD + b"Content-Length: 100\r\n\r\n{"):
            started = time.monotonic()
            reader, writer = await raw(one, data)
            answers.append((await asyncio.wait_for(reader.read(), 10), time.monotonic() - started))
            writer.close()
        return answers, (await one.client.get("/health")).status_code

    answers, health = served(chat_model, test, header_seconds=0.2, body_seconds=0.2, max_body_bytes=1000)
    assert [answer.split(b" ")[1] for answer, _ in answers] == [b"408"] * 4
    assert all(seconds < 5 for _, seconds in answers)
    assert health == 200


def test_the_header_timer_starts_again_on_a_used_connection(chat_model):
    async def test(one):
        reader, writer = await raw(one, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        first = await reader.readuntil(b"}")
        await asyncio.sleep(0.4)  # idle is not late
        writer.write(b"GET /health HTTP/1.1\r\nHo")
        rest = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return first, rest

    first, rest = served(chat_model, test, header_seconds=0.2)
    assert b" 200 " in first and b" 408 " in rest


@pytest.mark.parametrize("size", [100_000, 20_000_000])
def test_endless_headers(chat_model, size):
    async def test(one):
        try:
            reader, writer = await raw(one, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * size)
            answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
        except ConnectionError:
            answer = b"HTTP/1.1 400"
        return answer, (await one.client.get("/health")).status_code

    answer, health = served(chat_model, test)
    assert answer.startswith(b"HTTP/1.1 400") or answer == b""
    assert health == 200


@pytest.mark.parametrize("is_local", [True, False])
def test_connections_of_an_address_are_limited(chat_model, monkeypatch, is_local):
    """Of other machines: all programs of this one come from the same address."""
    if not is_local:
        monkeypatch.setattr("stepahead.server.transport.is_loopback", lambda host: False)

    async def is_refused(reader):
        try:
            return (await asyncio.wait_for(reader.read(), 0.3)).startswith(b"HTTP/1.1 429 ")
        except TimeoutError:
            return False

    async def health(reader, writer):
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return answer.startswith(b"HTTP/1.1 200 ")

    async def test(one):
        await one.client.aclose()
        opened = [await raw(one, b"") for _ in range(5)]
        refused = [await is_refused(reader) for reader, _ in opened]
        answered = [await health(*pair) for pair, no in zip(opened, refused, strict=True) if not no]
        last = await health(*await raw(one, b""))  # there is room again
        for _, writer in opened:
            writer.close()
        return refused, answered, last

    refused, answered, last = served(chat_model, test, max_connections_per_address=3)
    assert refused == [False] * 3 + [not is_local] * 2
    assert all(answered) and last


async def one_client(one, number, rng, expected):
    """Streams, at times leaving early; what was read must be the beginning of the solo text, or all of it."""
    for turn in range(3):
        await asyncio.sleep(rng.random() * 0.05)
        content, seed = f"client {number} of turn {turn} " + "x" * rng.randrange(60), number * 10 + turn
        fields = {"stream": True, "max_tokens": 40, "temperature": 0.8, "seed": seed}
        leaves_after = rng.randrange(1, 6) if rng.random() < 0.3 else None
        text = ""
        async with one.client.stream("POST", "/v1/chat/completions", json=body_of(content, **fields)) as answer:
            assert answer.status_code == 200
            count = 0
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    (choice,) = json.loads(line[6:])["choices"]
                    text += choice["delta"].get("content") or ""
                    count += 1
                if leaves_after is not None and count > leaves_after:
                    break
        expected.append((content, seed, text, leaves_after is None))


def test_many_clients_get_what_each_would_get_alone(chat_model):
    async def test(one):
        rng, told = random.Random(7), []
        await asyncio.gather(*(one_client(one, number, random.Random(rng.random()), told) for number in range(8)))
        await one.until_idle()
        return told, one.num_used_blocks

    told, num_used = served(chat_model, test, load={"max_num_seqs": 4})
    assert num_used == 0 and len(told) == 24 and sum(is_whole for *_, is_whole in told) >= 10
    with LLM(chat_model, threads=1) as llm:
        for content, seed, text, is_whole in told:
            params = SamplingParams(max_tokens=40, temperature=0.8, seed=seed, ignore_eos=True)
            solo = llm.chat([{"role": "user", "content": content}], params).text
            assert solo == text if is_whole else solo.startswith(text)


def test_the_command_serves_until_it_is_told_to_end(chat_model):
    async def stream(url):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(posted(body_of(stream=True, max_tokens=1500)))
        first = await reader.readuntil(b"content")
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.02)
        refused = await asyncio.to_thread(ask, url)
        rest = await reader.read()
        writer.close()
        return first + rest, refused

    def ask(url):
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", int(url.rpartition(":")[2]), timeout=5)
        connection.request("GET", "/health", headers={"Host": "localhost"})
        answer = connection.getresponse()
        try:
            return answer.status, answer.read()
        finally:
            connection.close()

    process, url = serve_process(chat_model, "--alias", "mine")
    try:
        text, refused = asyncio.run(stream(url))
        assert process.wait(20) == 0
        out, err = process.communicate()
    finally:
        process.kill()
        process.wait()
    assert b"[DONE]" in text  # what ran was finished
    assert refused[0] == 503 and b"draining" in refused[1]
    assert (out, err) == ("", "")


def test_answers_that_take_too_long_are_ended_with_an_error(chat_model):
    async def test(one):
        one.slow_down(0.02)
        reader, writer = await raw(one, posted(body_of(stream=True)))
        await reader.readuntil(b"content")
        await one.service.llm.drain(0.1)
        rest = await asyncio.wait_for(reader.readuntil(b"}}\n\n"), 10)
        writer.close()
        return rest

    assert b"the server shuts down" in served(chat_model, test)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["none.gguf", "--port", "0"], 2, "no such file"),
        (["--port", "0", "--host", "0.0.0.0"], 2, "--api-key-file"),
        (["--port", "0", "--api-key-file", "none"], 2, "No such file"),
        (["--port", "0", "--max-queued", "0"], 2, "at least 1"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_line(capsys, args, code, words):
    assert main(["serve", *args]) == code
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and said.out == ""


def test_a_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot listen" in capsys.readouterr().err
