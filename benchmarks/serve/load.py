"""A long load: python -m benchmarks.serve.load --minutes 10.

Clients stream completions with settings of their own, some leave in the middle, some read slowly, some send nonsense.
Every completed text must be what the same request gets alone, afterwards; every error one that was asked for; memory
and open files must not grow. Exits 1 otherwise.
"""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.serve.servers import RunningServer, ServerSetting
from stepahead.demo import demo_path
from stepahead.texts import KINDS, load

GROWTH = 1.05  # of memory, from the second fifth of the time to the last
NONSENSE: tuple[tuple[dict[str, Any] | bytes, int], ...] = (
    ({"prompt": "x", "max_tokens": -1}, 400),
    ({"prompt": "x", "temperature": "hot"}, 400),
    ({"prompt": ["x", 3]}, 400),
    ({"prompt": "x", "frobnicate": True}, 400),
    (b'{"prompt": "x', 400),
    (b"\xff\xfe", 400),
    ({"prompt": "x " * 40000, "max_tokens": 4}, 400),
)


@dataclass(slots=True)
class Tally:
    """What happened."""

    num_completed: int = 0
    num_left: int = 0
    num_refused: int = 0
    num_tokens: int = 0
    faults: list[str] = field(default_factory=list)
    kept: list[tuple[dict[str, Any], str]] = field(default_factory=list)  # requests and their texts, to be asked again
    memory: list[tuple[float, int, int]] = field(default_factory=list)  # seconds, bytes, open files


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    setting = ServerSetting("stepahead", True, str(options.model), options.threads, 2048, 8)
    with RunningServer(setting, stderr=None) as server:
        tally = asyncio.run(_load(server, options.clients, 60 * options.minutes, options.seed))
    problems = [*tally.faults[:10], *_growth(tally)]
    sizes = [f"{size / 1e6:.0f}" for _, size, _ in tally.memory[:: max(1, len(tally.memory) // 8)]]
    sys.stdout.write(
        f"{tally.num_completed} texts of {tally.num_tokens} tokens, {tally.num_left} left in the middle, "
        f"{tally.num_refused} refused as asked; {len(tally.kept)} asked again alone; {len(tally.faults)} faults\n"
        f"memory, MB: {', '.join(sizes)}\n" + "".join(f"{problem}\n" for problem in problems)
    )
    return 1 if problems else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve.load", description=__doc__)
    parser.add_argument("--model", type=Path, default=demo_path())
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


async def _load(server: RunningServer, num_clients: int, seconds: float, seed: int) -> Tally:
    tally = Tally()
    end = time.monotonic() + seconds
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        watch = asyncio.create_task(_watch(server, tally, end))
        await asyncio.gather(*(_client(http, tally, end, seed * 1000 + number) for number in range(num_clients)))
        await watch
        for body, text in tally.kept:
            again = await _text(http, body, None, 0.0)
            if again != text:
                tally.faults.append(f"alone this request has another text: {body}"[:300])
    return tally


async def _client(http: httpx.AsyncClient, tally: Tally, end: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prompts = [text.prompt for kind in KINDS for text in load(kind)]
    while time.monotonic() < end:
        kind = rng.random()
        if kind < 0.1:
            await _nonsense(http, tally, rng)
            continue
        prompt = prompts[int(rng.integers(0, len(prompts)))][: int(rng.integers(20, 2500))]
        body = {
            "model": "any", "prompt": prompt, "max_tokens": int(rng.integers(1, 200)), "stream": True,
            "temperature": float(rng.choice([0.0, 0.7, 1.0])), "seed": int(rng.integers(0, 1 << 30)),
        }  # fmt: skip
        leaves_after = int(rng.integers(0, 12)) if kind < 0.3 else None
        try:
            text = await _text(http, body, leaves_after, 0.05 if kind > 0.9 else 0.0)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            tally.faults.append(f"{type(error).__name__}: {error}"[:300])
            continue
        if leaves_after is not None:
            tally.num_left += 1
            continue
        tally.num_completed += 1
        tally.num_tokens += body["max_tokens"]
        if len(tally.kept) < 300:
            tally.kept.append((body, text))
        await asyncio.sleep(float(rng.exponential(0.05)))


async def _text(http: httpx.AsyncClient, body: dict[str, Any], leaves_after: int | None, pause: float) -> str:
    """The streamed text; cut short after so many events if the client leaves, read slowly with a pause at each."""
    pieces: list[str] = []
    async with http.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        count = 0
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            if leaves_after is not None and count >= leaves_after:
                break
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise ValueError(chunk["error"]["message"])
            pieces += [choice["text"] for choice in chunk["choices"]]
            count += 1
            if pause:
                await asyncio.sleep(pause)
    return "".join(pieces)


async def _nonsense(http: httpx.AsyncClient, tally: Tally, rng: np.random.Generator) -> None:
    body, expected = NONSENSE[int(rng.integers(0, len(NONSENSE)))]
    content = body if isinstance(body, bytes) else json.dumps({"model": "any", **body}).encode()
    answer = await http.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    if answer.status_code != expected:
        tally.faults.append(f"{answer.status_code} instead of {expected} for {content[:80]!r}: {answer.text[:120]}")
    tally.num_refused += 1


async def _watch(server: RunningServer, tally: Tally, end: float) -> None:
    started = time.monotonic()
    while time.monotonic() < end:
        tally.memory.append((time.monotonic() - started, server.resident_bytes, server.num_open_files))
        await asyncio.sleep(1.0)


def _growth(tally: Tally) -> list[str]:
    """Memory and open files of the last fifth beside those of the second."""
    part = len(tally.memory) // 5
    if part < 3:
        return []
    early, late = tally.memory[part : 2 * part], tally.memory[-part:]
    before, after = (float(np.median([size for _, size, _ in some])) for some in (early, late))
    problems = [f"memory grew from {before / 1e6:.0f} to {after / 1e6:.0f} MB"] if after > GROWTH * before else []
    files = [int(np.median([count for _, _, count in some])) for some in (early, late)]
    return problems + ([f"open files grew from {files[0]} to {files[1]}"] if files[1] > files[0] + 20 else [])


if __name__ == "__main__":
    sys.exit(main())
