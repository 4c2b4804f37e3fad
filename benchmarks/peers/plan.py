"""Which figures are taken: names, the questions behind them, and the floor that each is held against."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Literal

from benchmarks.peers.floor import Weights
from benchmarks.peers.side import MAX_REPEATS, WARM_UPS, some_ids

VERIFY_ROWS = (1, 2, 3, 4, 5, 8, 16)
DEPTHS = (1, 2, 3)
Unit = Literal["tokens/s", "ms"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of everything that is asked."""

    vocab_size: int
    num_heads: int
    prefix: int = 256  # tokens before the rows of a decode, a verify pass or a cycle
    num_tokens: int = 32  # of a decode
    prompts: tuple[int, ...] = (512, 4096)
    seconds: float = 0.5  # spent on a sample of passes or cycles

    @property
    def context_length(self) -> int:
        longest = max(self.prefix + self.num_tokens, *(self.prompts or (0,)))
        return max(longest + 16, self.prefix + max(VERIFY_ROWS), self.prefix + 4 * (MAX_REPEATS + WARM_UPS + 1))


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure. A sample's seconds are those of `parts`, added; all of them if there are none named."""

    key: str
    label: str
    unit: Unit
    num_tokens: int  # a sample's, behind a rate
    method: str  # of Side
    arguments: dict[str, Any]
    floor_bytes: float | None  # None: nothing must be read
    parts: tuple[str, ...] = ()
    uses_heads: bool = False

    def shown(self, seconds: float) -> float:
        """In its unit."""
        return self.num_tokens / seconds if self.unit == "tokens/s" else 1e3 * seconds


@dataclass(frozen=True, slots=True)
class Task:
    """One question, and the figures its answer holds. `arguments` may differ a round: a prompt must be a new one."""

    measures: tuple[Measure, ...]
    prompt: int = 0  # length of the new prompt; 0: the same arguments every time

    def arguments(self, plan: Plan, number: int) -> dict[str, Any]:
        """Of the round of this number."""
        if self.prompt:
            return {"ids": some_ids(plan.vocab_size, self.prompt, seed=1000 + self.prompt + number)}
        return self.measures[0].arguments


def make_tasks(plan: Plan, weights: Weights, only: Sequence[str] = ("*",)) -> list[Task]:
    """Those with a figure whose key matches one of the patterns."""
    tasks = [_decode(plan, weights), *(_prompt(length, weights) for length in plan.prompts)]
    tasks += [_verify(plan, weights, rows) for rows in VERIFY_ROWS]
    depths = [depth for depth in DEPTHS if depth <= plan.num_heads]
    tasks += [_cycle(plan, weights, depth, kept) for depth in depths for kept in (depth, 0)]
    return [task for task in tasks if any(fnmatch(m.key, pattern) for m in task.measures for pattern in only)]


def _prefix(plan: Plan) -> list[int]:
    return some_ids(plan.vocab_size, plan.prefix, seed=1)


def _decode(plan: Plan, weights: Weights) -> Task:
    middle = plan.prefix + plan.num_tokens // 2
    arguments = {"prefix": _prefix(plan), "num_tokens": plan.num_tokens}
    floor = (plan.num_tokens - 1) * weights.rows(1, middle)
    return Task((Measure("decode", "decode, plain", "tokens/s", plan.num_tokens - 1, "decode", arguments, floor),))


def _prompt(length: int, weights: Weights) -> Task:
    label = f"prompt of {length:,}"
    floor = weights.prompt(length)
    return Task((Measure(f"prompt-{length}", label, "tokens/s", length, "prompt", {}, floor),), prompt=length)


def _verify(plan: Plan, weights: Weights, rows: int) -> Task:
    ids = some_ids(plan.vocab_size, rows, seed=2)
    arguments = {"prefix": _prefix(plan), "rows": ids, "seconds": plan.seconds}
    label = f"verify pass, {rows} row{'s' * (rows > 1)}"
    floor = weights.rows(rows, plan.prefix)
    return Task((Measure(f"verify-{rows}", label, "ms", rows, "verify", arguments, floor),))


def _cycle(plan: Plan, weights: Weights, depth: int, kept: int) -> Task:
    arguments = {"prefix": _prefix(plan), "depth": depth, "kept": kept, "seconds": plan.seconds}
    key, label = f"cycle-{depth}-kept-{kept}", f"cycle, depth {depth}, {kept or 'none'} kept"
    verify, draft = weights.rows(1 + depth, plan.prefix), weights.heads(depth, plan.prefix)

    def part(name: str, floor: float | None) -> Measure:
        shown = f"  {name.replace('_', '-')}"
        return Measure(f"{key}-{name}", shown, "ms", 1, "cycle", arguments, floor, (name,), uses_heads=True)

    whole = Measure(key, label, "ms", 1 + kept, "cycle", arguments, verify + draft, uses_heads=True)
    return Task((whole, part("draft", draft), part("verify", verify), part("catch_up", None)))
