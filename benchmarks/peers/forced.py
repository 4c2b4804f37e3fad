"""Decoding at a given acceptance, ours beside llama.cpp's server with its own switch for that: what the engines gain
from the same drafts, whatever the heads of a made model would say.

Every round asks each setting once. Ours is one process that is stopped meanwhile; a server is started for each
question, since it fixes its depth when it starts and holds on to memory of one that it had before. Tokens a second are
those at the acceptance that was asked for: a step takes as long whatever it accepts, and some dozen drafts may be
lucky.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from benchmarks.peers.measure import Progress, Spread
from benchmarks.peers.side import Forced, some_ids
from benchmarks.peers.worker import Setting, Worker

OURS_AUTO = "stepahead auto"
TARGET, STRETCH = 1.25, 1.4  # ours to llama.cpp's best


@dataclass(frozen=True, slots=True)
class Contender:
    """A setting of one side; depth None is ours to choose, 0 plain."""

    name: str
    depth: int | None
    setting: Setting


@dataclass(slots=True)
class Speeds:
    """What was measured: a decode a round, for each contender."""

    samples: dict[str, list[Forced]] = field(default_factory=dict)

    def rates(self, name: str) -> list[float]:
        return [sample.rate for sample in self.samples[name]]

    @property
    def best_peer(self) -> str | None:
        """The fastest of llama.cpp's, in the median."""
        peers = [name for name in self.samples if not name.startswith("stepahead")]
        return max(peers, key=lambda name: statistics.median(self.rates(name)), default=None)

    def ratio(self, name: str, other: str) -> Spread:
        """Of rates, round by round."""
        return Spread.of([mine / theirs for mine, theirs in zip(self.rates(name), self.rates(other), strict=True)])


def contenders(settings: Sequence[Setting], num_heads: int, rates: tuple[float, ...]) -> list[Contender]:
    """`settings`: ours, then llama.cpp's layouts."""
    ours, *peers = settings
    depths = range(num_heads + 1)
    found = [Contender(OURS_AUTO, None, ours), *(Contender(_named("stepahead", n), n, ours) for n in depths)]
    for peer in peers:
        found += [
            Contender(_named(peer.name, n), n, replace(peer, engine="llama.cpp server", depth=n, rates=rates))
            for n in depths
        ]
    return found


def _named(side: str, depth: int) -> str:
    return f"{side} {f'depth {depth}' if depth else 'plain'}"


def measure_forced(
    found: Sequence[Contender],
    vocab_size: int,
    prefix: int,
    num_tokens: int,
    rates: tuple[float, ...],
    rounds: int,
    say: Progress,
) -> Speeds:
    """One round more, the first, warms up ours and is not asked of servers, which start anew each time."""
    ids = some_ids(vocab_size, prefix, seed=1)
    speeds = Speeds({contender.name: [] for contender in found})
    with Worker(found[0].setting) as ours:
        for number in range(rounds + 1):
            for step in range(len(found)):
                contender = found[(step + number) % len(found)]
                is_ours = contender.setting is found[0].setting
                if number == 0 and not is_ours:
                    continue
                say(f"round {number} of {rounds}: {contender.name}")
                question = {"prefix": ids, "num_tokens": num_tokens, "seed": number}
                if is_ours:
                    answer = ours.ask("forced", **question, depth=contender.depth, rates=list(rates))[0]
                else:
                    with Worker(contender.setting) as server:
                        answer = server.ask("forced", **question)[0]
                if number > 0:
                    speeds.samples[contender.name].append(Forced(**answer))
    return speeds


def as_object(facts: dict[str, Any], rates: tuple[float, ...], num_tokens: int, speeds: Speeds) -> dict[str, Any]:
    peer = speeds.best_peer
    return {
        **facts,
        "synth_rates": rates,
        "num_tokens": num_tokens,
        "best_peer": peer,
        "auto_to_best_peer": None if peer is None else asdict(speeds.ratio(OURS_AUTO, peer)),
        "tokens_per_second": {name: speeds.rates(name) for name in speeds.samples},
        "samples": {name: [asdict(sample) for sample in samples] for name, samples in speeds.samples.items()},
    }


def as_text(facts: dict[str, Any], rates: tuple[float, ...], num_tokens: int, speeds: Speeds) -> str:
    peer = speeds.best_peer
    lines = [
        f"{facts['model']} ({facts['file']}) on {facts['machine']}, {facts['threads']} threads; {facts['rounds']} "
        f"rounds of {num_tokens} tokens behind {facts['prefix']}; acceptance forced to "
        + ", ".join(f"{rate:g}" for rate in rates),
        f"{'':<34}{'tokens/s':>10}{'low':>9}{'high':>9}{'accepted':>12}" + (f"{'auto to it':>12}" if peer else ""),
    ]
    for name, samples in speeds.samples.items():
        spread = Spread.of(speeds.rates(name))
        drafted = sum(sample.num_drafted for sample in samples)
        taken, expected = (sum(getattr(one, of) for one in samples) for of in ("num_accepted", "expected"))
        accepted = f"{100 * taken / drafted:.0f} of {100 * expected / drafted:.0f} %" if drafted else "–"
        ratio = f"{speeds.ratio(OURS_AUTO, name).median:>11.2f}x" if peer else ""
        lines.append(f"{name:<34}{spread.median:>10.2f}{spread.low:>9.2f}{spread.high:>9.2f}{accepted:>12}{ratio}")
    if peer is not None:
        ratio_to_best = speeds.ratio(OURS_AUTO, peer)
        lines.append(
            f"ours, auto, to llama.cpp's best ({peer}): {ratio_to_best.median:.2f}x "
            f"({ratio_to_best.low:.2f} to {ratio_to_best.high:.2f}); the target is {TARGET}, {STRETCH} is hoped for"
        )
    return "\n".join(lines)
