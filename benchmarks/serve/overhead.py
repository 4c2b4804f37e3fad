"""What serving adds to a step: python -m benchmarks.serve.overhead [MODEL].

One stream of plain decoding over HTTP beside the same in this process, in turns; each time per token is from a
stream's first event to its last. The difference is threads, tokenizer, parser, events and the socket.
"""

import argparse
import json
import socket
import statistics
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.serve.servers import RunningServer, ServerSetting
from stepahead import LLM, SamplingParams, Speculation
from stepahead.demo import demo_path
from stepahead.texts import load

CONTEXT = 4096


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve.overhead", description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", default=demo_path(), help="a GGUF file; default: the demo")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    direct, served = measure(options.model, options.rounds, options.tokens, options.threads)
    added = statistics.median(b / a - 1 for a, b in zip(direct, served, strict=True))
    sys.stdout.write(
        f"{Path(options.model).stem}: {statistics.median(direct):.3f} ms a token here, "
        f"{statistics.median(served):.3f} over HTTP: {added:+.1%} (median of {len(direct)} rounds)\n"
    )
    if options.json is not None:
        options.json.write_text(json.dumps({"direct_ms": direct, "served_ms": served, "added": added}) + "\n")
    return 0


def measure(path: Path, rounds: int, num_tokens: int, threads: int) -> tuple[list[float], list[float]]:
    """Milliseconds a token of each round: in this process, over HTTP."""
    prompt = load("code")[0].prompt
    setting = ServerSetting("stepahead", True, str(path), threads, CONTEXT, 1)
    direct, served = [], []
    with RunningServer(setting) as server, LLM(path, threads=threads, context_length=CONTEXT, max_num_seqs=1) as llm:
        for number in range(rounds + 1):
            a, b = of_stream(llm, prompt, num_tokens), of_server(server.url, prompt, num_tokens)
            if number > 0:  # the first warms both
                direct.append(a)
                served.append(b)
    return direct, served


def of_stream(llm: LLM, prompt: str, num_tokens: int) -> float:
    params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    stream = llm.stream(prompt, params, Speculation("off"))
    next(stream)
    started = time.perf_counter()
    for _ in stream:
        pass
    return 1e3 * (time.perf_counter() - started) / (num_tokens - 1)


def of_server(url: str, prompt: str, num_tokens: int) -> float:
    """Over a socket read as it is: what a client makes of the events is not the server's time."""
    body = json.dumps({
        "model": "any", "prompt": prompt, "max_tokens": num_tokens, "temperature": 0, "stream": True,
        "ignore_eos": True, "speculation": {"mode": "off"},
    }).encode()  # fmt: skip
    place = urlsplit(url)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        received = b""
        while b"data: " not in received:
            received += connection.recv(1 << 16) or _closed(received)
        assert received.startswith(b"HTTP/1.1 200"), received
        started = time.perf_counter()
        while b"data: [DONE]" not in received[-100:]:
            received += connection.recv(1 << 16) or _closed(received)
        return 1e3 * (time.perf_counter() - started) / (num_tokens - 1)


def _closed(received: bytes) -> bytes:
    raise RuntimeError(f"the stream ended early: {received[-200:]!r}")


if __name__ == "__main__":
    sys.exit(main())
