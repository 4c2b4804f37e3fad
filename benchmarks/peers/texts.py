"""Whole texts, each engine drafting by itself: python -m benchmarks.peers.texts.

Ours with its own choice of drafts beside llama.cpp's server without drafts, with MTP at each depth, and with each of
its n-gram lookups. Both decode greedily from the same ids. Settings take turns, one process at a time; a server is
started for each question, since it fixes its drafts when it starts.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.peers import llama
from benchmarks.peers.measure import Spread
from benchmarks.peers.worker import Setting, Worker, WorkerError
from stepahead import LLM
from stepahead.demo import demo_path
from stepahead.errors import ConfigError, StepaheadError
from stepahead.texts import KINDS, load

NGRAMS = ("simple", "map-k", "map-k4v", "mod", "cache")
AUTO, PLAIN = "stepahead auto", "stepahead plain"
TARGET = 1.5  # ours to llama.cpp's best
CONTEXT = 4096

Rates = dict[str, list[float]]
"""Setting -> tokens per second, a figure a round."""


def main(arguments: list[str] | None = None) -> int:
    try:
        options = _parse(arguments)
        reason = llama.why_missing()
        if reason is not None:
            raise ConfigError(reason)
        rates = measure(options.model, options.kind, options.tokens, options.rounds, options.threads)
        sys.stdout.write(as_text(options.kind, rates) + "\n")
        if options.json is not None:
            options.json.write_text(json.dumps({"kind": options.kind, "tokens_per_second": rates}, indent=1) + "\n")
    except (StepaheadError, WorkerError) as error:
        sys.stderr.write(f"texts: {error}\n")
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.texts", description=__doc__)
    parser.add_argument("--model", type=Path, default=demo_path(), help="a GGUF file with heads; default: the demo")
    parser.add_argument("--kind", choices=KINDS, default="code")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of both sides; default: 2")
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args(arguments)


def contenders(path: Path, threads: int, num_heads: int) -> list[Setting]:
    """Ours first; llama.cpp's with its repacked weights, the better setting on these machines."""
    ours = Setting(AUTO, "stepahead", str(path), threads, CONTEXT)
    peer = replace(ours, name="llama.cpp plain", engine="llama.cpp server", repack=True)
    depths = [replace(peer, name=f"llama.cpp MTP {depth}", depth=depth) for depth in range(1, num_heads + 1)]
    return [ours, peer, *depths, *(replace(peer, name=f"llama.cpp ngram-{kind}", ngram=kind) for kind in NGRAMS)]


def measure(path: Path, kind: str, num_tokens: int, rounds: int, threads: int) -> Rates:
    """One round more, the first, warms up: drafting learns what a text is like."""
    with LLM(path, threads=threads, context_length=CONTEXT) as llm:
        num_heads = 0 if llm.model.draft is None else llm.model.draft.num_heads
        prompts = [llm.tokenize(text.prompt) for text in load(kind)]
    ours, *peers = contenders(path, threads, num_heads)
    rates: Rates = {name: [] for name in (AUTO, PLAIN, *(peer.name for peer in peers))}
    with Worker(ours) as worker:
        for number in range(rounds + 1):
            for name, mode in ((AUTO, "auto"), (PLAIN, "off")):
                rate = _rate(worker, prompts, num_tokens, mode=mode)
                rates[name] += [rate] if number else []
            for peer in peers if number else ():
                with Worker(peer) as server:
                    _rate(server, prompts[:1], num_tokens)  # weights and n-grams are warm
                    rates[peer.name].append(_rate(server, prompts, num_tokens))
    return rates


def _rate(worker: Worker, prompts: Sequence[list[int]], num_tokens: int, **arguments: str) -> float:
    """Tokens a second over all prompts, each from its first token to its last."""
    answers = [worker.ask("text", prompt=prompt, num_tokens=num_tokens, **arguments)[0] for prompt in prompts]
    return float(sum(answer["num_tokens"] for answer in answers) / sum(answer["seconds"] for answer in answers))


def as_text(kind: str, rates: Rates) -> str:
    peers = [name for name in rates if name not in (AUTO, PLAIN)]
    best = max(peers, key=lambda name: statistics.median(rates[name]))
    ratio = Spread.of([mine / theirs for mine, theirs in zip(rates[AUTO], rates[best], strict=True)])
    lines = [f"{kind}: tokens/s, greedy", *(f"  {name:24s}{statistics.median(rates[name]):9.1f}" for name in rates)]
    verdict = "reached" if ratio.median >= TARGET else "missed"
    return "\n".join(
        [*lines, f"auto ÷ {best}: {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}); {TARGET}: {verdict}"]
    )


if __name__ == "__main__":
    sys.exit(main())
