"""Takes the figures: every round asks every side every question, sides in another order each time.

A machine's speed drifts, so a ratio is one of two samples of the same round, and so is the distance from the floor;
medians over rounds are reported with the least and the greatest. Prints nothing.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.plan import Measure, Plan, Task
from benchmarks.peers.side import Seconds, some_ids
from benchmarks.peers.worker import Memory, Setting, Worker
from stepahead.diagnosis.bandwidth import ReadBandwidth

AGREEMENT_TOKENS = 64
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one figure over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure, all sides. Samples are seconds, one a round; the first side is ours."""

    measure: Measure
    samples: dict[str, list[float]]
    bandwidth: list[float]  # bytes a second, in the same rounds
    peer: str | None  # the faster setting of the peer; of a part, that of its whole

    @property
    def ours(self) -> str:
        return next(iter(self.samples))

    def spread(self, side: str) -> Spread:
        """In the measure's unit."""
        return Spread.of([self.measure.shown(seconds) for seconds in self.samples[side]])

    @property
    def times_as_fast(self) -> Spread | None:
        """As the peer, round by round. None without one, and for parts: the two sides cut a cycle differently."""
        if self.peer is None or self.measure.parts:
            return None
        pairs = zip(self.samples[self.peer], self.samples[self.ours], strict=True)
        return Spread.of([theirs / ours for theirs, ours in pairs])

    @property
    def floor(self) -> float | None:
        """In the measure's unit, at the median bandwidth."""
        if self.measure.floor_bytes is None:
            return None
        return self.measure.shown(self.measure.floor_bytes / statistics.median(self.bandwidth))

    def times_floor(self, side: str) -> float | None:
        """How often the floor's time a side takes; below 1 where caches hold what memory need not give."""
        if self.measure.floor_bytes is None:
            return None
        pairs = zip(self.samples[side], self.bandwidth, strict=True)
        return statistics.median([seconds * rate / self.measure.floor_bytes for seconds, rate in pairs])


@dataclass(slots=True)
class SideMemory:
    """The most of each, over all questions of a kind."""

    peak: int = 0
    anonymous: int = 0
    file: int = 0

    def take(self, memory: Memory | None) -> None:
        if memory is not None:
            self.peak = max(self.peak, memory.peak)
            self.anonymous = max(self.anonymous, memory.anonymous)
            self.file = max(self.file, memory.file)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Whether both sides compute the same thing: greedy choices after the same ids."""

    logits_hash: str  # ours
    num_tokens: int
    shares: dict[str, float]  # of ours, by peer setting


@dataclass(slots=True)
class Results:
    figures: list[Figure] = field(default_factory=list)
    memory: dict[str, dict[str, SideMemory]] = field(default_factory=dict)  # side -> "plain", "with heads"
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)  # side -> what it says of itself
    agreement: Agreement | None = None
    bandwidth: list[float] = field(default_factory=list)
    others: dict[str, float] = field(default_factory=dict)  # side -> CPUs that others used while it was asked


def faster_peer(samples: dict[str, list[float]]) -> str | None:
    """By median, of all sides but the first."""
    return min(list(samples)[1:], key=lambda name: statistics.median(samples[name]), default=None)


def order(count: int, number: int) -> list[int]:
    """The order of the sides in a round: another side begins each time."""
    return [(step + number) % count for step in range(count)]


def measure_loads(settings: Sequence[Setting], rounds: int, bandwidth: ReadBandwidth, say: Progress) -> list[Figure]:
    """Load in a fresh process each time, file in the page cache: until the model stands, and to its first token."""
    names = {"load": "load", "first_token": "load to first token"}
    samples: dict[str, dict[str, list[float]]] = {part: {s.name: [] for s in settings} for part in names}
    rates: list[float] = []
    for number in range(rounds):
        rates.append(bandwidth.measure())
        for index in order(len(settings), number):
            say(f"load, round {number + 1} of {rounds}: {settings[index].name}")
            with Worker(settings[index]) as worker:
                for part, seconds in worker.load_seconds.items():
                    samples[part][settings[index].name].append(seconds)
    peer = faster_peer(samples["first_token"])
    return [
        Figure(Measure(part, label, "ms", 1, "", {}, None), samples[part], rates, peer) for part, label in names.items()
    ]


def measure_rounds(
    workers: Sequence[Worker], plan: Plan, tasks: Sequence[Task], rounds: int, bandwidth: ReadBandwidth, say: Progress
) -> Results:
    """One round more than asked, the first, warms up and is not counted."""
    names = [worker.setting.name for worker in workers]
    results = Results(memory={name: {"plain": SideMemory(), "with heads": SideMemory()} for name in names})
    for worker in workers:
        results.facts[worker.setting.name] = worker.ask("facts")[0]
    results.agreement = _agreement(workers, plan)
    samples: list[dict[str, list[list[Seconds]]]] = [{name: [] for name in names} for _ in tasks]
    rates: list[list[float]] = [[] for _ in tasks]
    for number in range(rounds + 1):
        for task, of_task, of_rates in zip(tasks, samples, rates, strict=True):
            of_rates.append(bandwidth.measure())
            question = task.arguments(plan, number)
            for index in order(len(workers), number):
                say(f"round {number} of {rounds}: {task.measures[0].label}, {names[index]}")
                answer, memory = workers[index].ask(task.measures[0].method, **question)
                of_task[names[index]].append(answer["repeats"])
                kind = "with heads" if task.measures[0].uses_heads else "plain"
                results.memory[names[index]][kind].take(memory)
    results.others = {worker.setting.name: worker.others for worker in workers}
    for task, of_task, of_rates in zip(tasks, samples, rates, strict=True):
        by_measure = [
            {name: [sample(repeats, measure) for repeats in taken[1:]] for name, taken in of_task.items()}
            for measure in task.measures
        ]
        peer = faster_peer(by_measure[0])
        for measure, seconds in zip(task.measures, by_measure, strict=True):
            results.figures.append(Figure(measure, seconds, of_rates[1:], peer))
        results.bandwidth += of_rates[1:]
    return results


def sample(repeats: Sequence[Seconds], measure: Measure) -> float:
    """Seconds of one sample: the repeat whose whole is the median, so that its parts add up."""
    middle = sorted(repeats, key=lambda parts: sum(parts.values()))[(len(repeats) - 1) // 2]
    return sum(middle[part] for part in measure.parts or middle)


def _agreement(workers: Sequence[Worker], plan: Plan) -> Agreement:
    ids = some_ids(plan.vocab_size, min(AGREEMENT_TOKENS, plan.context_length), seed=3)
    (ours, digest), *others = (worker.ask("choices", ids=ids)[0] for worker in workers)
    names = [worker.setting.name for worker in workers[1:]]
    shares = {
        name: sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ids)
        for name, (theirs, _) in zip(names, others, strict=True)
    }
    return Agreement(digest, len(ids), shares)
