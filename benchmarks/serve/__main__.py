"""Tokens a second that clients get, ours beside llama.cpp's server: python -m benchmarks.serve.

Each client streams completions of built-in texts, one after the other; all start together, and the time runs until the
last is done. Settings take turns within a round, one server at a time. Then the time to the first token behind a
prefix that a request before had, to that of a prefix never seen.
"""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx

from benchmarks.serve.servers import RunningServer, ServerSetting
from stepahead.demo import demo_path
from stepahead.texts import load

CLIENTS = (1, 2, 4, 8)
CONTEXT = 4096
TARGET = 1.5  # ours to llama.cpp's best
OURS = "stepahead"
PREFIX_TOKENS = 3000


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    settings = contenders(options.model, options.threads, options.peers)
    rates = asyncio.run(measure(settings, options.clients, options.rounds, options.tokens, options.kind))
    lines = as_lines(rates, options.clients)
    ratio = asyncio.run(first_token_ratio(settings[0]))
    lines.append(f"first token behind a prefix of 3,000 tokens, warm to cold: {ratio:.3f}; at most 0.1 is asked")
    sys.stdout.write("\n".join(lines) + "\n")
    if options.json is not None:
        options.json.write_text(json.dumps({"tokens_per_second": rates, "warm_to_cold": ratio}, indent=1) + "\n")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--model", type=Path, default=demo_path(), help="a GGUF file; default: the demo")
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128, help="of each completion")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kind", default="code", help="of the texts that are continued")
    parser.add_argument("--peers", nargs="*", default=["plain", "mtp-1", "mtp-3", "ngram-mod"], help="of llama.cpp")
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args(arguments)


def contenders(path: Path, threads: int, peers: Sequence[str]) -> list[ServerSetting]:
    """Ours first. A peer is called plain, mtp-DEPTH or ngram-KIND."""
    ours = ServerSetting(OURS, True, str(path), threads, CONTEXT, max(CLIENTS))
    found = [ours]
    for peer in peers:
        kind, _, detail = peer.partition("-")
        setting = replace(ours, name=f"llama.cpp {peer}", is_ours=False)
        if kind == "mtp":
            setting = replace(setting, depth=int(detail))
        elif kind == "ngram":
            setting = replace(setting, ngram=detail)
        found.append(setting)
    return found


async def measure(
    settings: Sequence[ServerSetting], clients: Sequence[int], rounds: int, num_tokens: int, kind: str
) -> dict[str, dict[int, list[float]]]:
    """Setting -> clients -> tokens per second of each round."""
    prompts = [text.prompt for text in load(kind)]
    rates: dict[str, dict[int, list[float]]] = {one.name: {count: [] for count in clients} for one in settings}
    for number in range(rounds):
        for step in range(len(settings)):
            setting = settings[(step + number) % len(settings)]
            with RunningServer(setting) as server:
                await _all(server.url, 1, prompts, num_tokens, "warm")  # weights and threads
                for count in clients:
                    rates[setting.name][count].append(await _all(server.url, count, prompts, num_tokens, f"of {count}"))
    return rates


async def _all(url: str, num_clients: int, prompts: Sequence[str], num_tokens: int, mark: str) -> float:
    """Tokens a second of all clients together; each continues every prompt, beginning with another.

    mark: begins every prompt, so that no prefix cache knows it from an earlier call.
    """
    # A connection for each question: llama.cpp's server may close one after a stream.
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as client:

        async def one(number: int) -> int:
            total = 0
            for step in range(len(prompts)):
                prompt = f"# {mark}, {number}\n{prompts[(number + step) % len(prompts)]}"
                total += await complete(client, prompt, num_tokens)
            return total

        started = time.perf_counter()
        totals = await asyncio.gather(*(one(number) for number in range(num_clients)))
        return sum(totals) / (time.perf_counter() - started)


async def complete(client: httpx.AsyncClient, prompt: str | list[int], num_tokens: int) -> int:
    """Tokens of one streamed completion, as its usage counts them."""
    body = {
        "model": "any", "prompt": prompt, "max_tokens": num_tokens, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    count = 0
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                usage = json.loads(line[6:]).get("usage")
                count = usage["completion_tokens"] if usage else count
    return count


async def first_token_ratio(setting: ServerSetting, rounds: int = 5) -> float:
    """Median of warm to cold: the second of two requests whose prompts differ in their last words alone."""
    text = "".join(path.prompt for path in load("edit"))
    ratios = []
    with RunningServer(setting) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
            ids = await _tokenize(client, text * 9)
            for number in range(rounds):
                prefix = await _tokenize(client, f"# {number}\n") + ids[:PREFIX_TOKENS]
                cold = await _first_token(client, prefix + await _tokenize(client, "\ndef first():\n"))
                warm = await _first_token(client, prefix + await _tokenize(client, "\ndef second(argument):\n"))
                ratios.append(warm / cold)
    return statistics.median(ratios)


async def _tokenize(client: httpx.AsyncClient, text: str) -> list[int]:
    answer = await client.post("/tokenize", json={"content": text})
    answer.raise_for_status()
    ids: list[int] = answer.json()["tokens"]
    return ids


async def _first_token(client: httpx.AsyncClient, prompt: list[int]) -> float:
    started = time.perf_counter()
    await complete(client, prompt, 1)
    return time.perf_counter() - started


def as_lines(rates: dict[str, dict[int, list[float]]], clients: Sequence[int]) -> list[str]:
    lines = ["tokens/s of all clients together, medians", f"{'clients':24s}" + "".join(f"{n:10d}" for n in clients)]
    for name, by_clients in rates.items():
        medians = "".join(f"{statistics.median(by_clients[count]):10.0f}" for count in clients)
        lines.append(f"{name:24s}{medians}")
    peers = [name for name in rates if name != OURS]
    if peers:
        best = {n: max(peers, key=lambda name: statistics.median(rates[name][n])) for n in clients}
        ratios = {
            n: statistics.median(a / b for a, b in zip(rates[OURS][n], rates[best[n]][n], strict=True)) for n in clients
        }
        lines.append(f"{'ours to the best':24s}" + "".join(f"{ratios[count]:9.2f}x" for count in clients))
        lines.append(f"asked: {TARGET}x")
    return lines


if __name__ == "__main__":
    sys.exit(main())
