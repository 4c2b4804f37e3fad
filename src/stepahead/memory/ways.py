"""The ways to make a model fit: which settings take less, how much less, and what each of them costs the user.

In the order of that cost: what only later prompts miss, then waiting for one another, then a rounding of keys and
values that hardly shows, then a shorter context, and last what makes every token slower: experts that the CPU computes
for a GPU, no heads.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from stepahead.config import AUTO_EXPERTS, EngineConfig
from stepahead.errors import StepaheadError
from stepahead.memory.planner import Planner

NUM_NAMED = 3
STEP = 1024
SMALL_STEP = 64
"""Steps of a context; the small one for contexts that are short already."""

WORTH_NAMING = 0.01
"""Of what is lacking: a way that saves less is none."""

ARGUMENT = " (max_num_seqs=)"
"""Of LLM: the only one that has another name on command lines."""

Need = Callable[[EngineConfig], int]
"""What has to be there, in bytes."""


@dataclass(frozen=True, slots=True)
class Way:
    """A change of one setting, or of some of them: `flags` as they are written on a command line."""

    flags: str
    config: EngineConfig
    saved: int
    is_enough: bool

    def __str__(self) -> str:
        return f"{self.flags} saves {gigabytes(self.saved)}, {'enough' if self.is_enough else 'not enough'}"


def ways_out(planner: Planner, asked: EngineConfig, free: int) -> tuple[list[Way], Way | None]:
    """The cheapest ways, in the order of their cost, at most NUM_NAMED, those that suffice alone first to be chosen;
    and, if none of them does, all at once: with a shorter context, if that is what it takes, and with the ways that are
    not named, if it takes even those."""
    need = needed(planner)
    has = need(asked)
    ways = [way for way in _ways(planner, asked, need, has, free) if way.saved > WORTH_NAMING * (has - free)]
    by_use = sorted(ways, key=lambda way: (not way.is_enough, 0 if way.is_enough else -way.saved))
    named = [way for way in ways if way in by_use[:NUM_NAMED]]
    if any(way.is_enough for way in named) or len(named) < 2:
        return named, None
    together = _together(planner, asked, named, need, has, free)
    if not together.is_enough and len(ways) > len(named):
        together = _together(planner, asked, ways, need, has, free)
    return named, together


def needed(planner: Planner) -> Need:
    """Without what a prefix cache takes whose size nobody asked for."""

    def need(config: EngineConfig) -> int:
        return planner.plan(config, max_cache_nbytes=0).anonymous_nbytes

    return need


def largest(low: int, high: int, step: int, fits: Callable[[int], bool]) -> int | None:
    """The largest multiple of `step` from low to high that fits, if larger ones never fit where smaller do not."""
    first, last = -(-low // step), high // step
    if first > last or not fits(first * step):
        return None
    while first < last:
        middle = (first + last + 1) // 2
        first, last = (middle, last) if fits(middle * step) else (first, middle - 1)
    return first * step


def gigabytes(nbytes: float) -> str:
    if nbytes >= 1e9:
        return f"{nbytes / 1e9:.1f} GB"
    return f"{nbytes / 1e6:.0f} MB" if nbytes >= 1e7 else f"{nbytes / 1e6:.1f} MB"


def _ways(planner: Planner, asked: EngineConfig, need: Need, has: int, free: int) -> Iterator[Way]:
    for flags, config in _changes(planner, asked, need, free):
        try:
            nbytes = need(config)
        except StepaheadError:  # not with this model
            continue
        yield Way(flags, config, has - nbytes, nbytes <= free)


def _changes(planner: Planner, asked: EngineConfig, need: Need, free: int) -> Iterator[tuple[str, EngineConfig]]:
    if asked.cache_gb:
        most = int(100 * asked.cache_gb)
        left = (largest(0, most, 1, lambda n: need(replace(asked, cache_gb=n / 100)) <= free) or 0) / 100
        yield _flag("cache-gb", f"{left:g}"), replace(asked, cache_gb=left)
    if asked.max_num_seqs > 1:
        count = largest(1, asked.max_num_seqs - 1, 1, lambda n: need(replace(asked, max_num_seqs=n)) <= free) or 1
        yield _flag("parallel", count) + ARGUMENT, replace(asked, max_num_seqs=count)
    for kv_type in {"f32": ("f16", "q8_0"), "f16": ("q8_0",)}.get(asked.kv_type, ()):
        yield _flag("kv-type", kv_type), replace(asked, kv_type=kv_type)
    length = _shorter(planner, asked, need, free)
    if length is not None:
        yield _flag("context-length", length), replace(asked, context_length=length)
    if planner.place is not None:
        whole = replace(asked, cpu_experts=0, gpu_layers=None)
        lacking = need(whole) - free
        count = len(planner.placement(replace(whole, cpu_experts=AUTO_EXPERTS), lacking).layers)
        if count > len(planner.placement(asked, 0).layers):
            yield _flag("cpu-experts", count), replace(whole, cpu_experts=count)
    if planner.model(asked).draft is not None:
        yield "--mtp off", replace(asked, mtp="off")
    if asked.repack != "never":
        yield "--repack never", replace(asked, repack="never")


def _shorter(planner: Planner, asked: EngineConfig, need: Need, free: int) -> int | None:
    """The largest context that fits, or the shortest that is worth the name; None: it is as short as that."""
    has = asked.resolve(planner.model(asked).context_length).context_length
    step = STEP if has > STEP else SMALL_STEP
    if has <= step:
        return None
    return largest(step, has - 1, step, lambda n: need(replace(asked, context_length=n)) <= free) or step


def _together(planner: Planner, asked: EngineConfig, ways: list[Way], need: Need, has: int, free: int) -> Way:
    """All of them, but no shorter a context than the others leave it."""
    config, flags = asked, {}
    for way in ways:
        changed = {
            name: getattr(way.config, name)
            for name in ("cache_gb", "max_num_seqs", "kv_type", "mtp", "repack", "cpu_experts")
            if getattr(way.config, name) != getattr(asked, name)
        }
        if changed:
            config = replace(config, **changed)
            flags[way.flags.split()[0]] = way.flags.removesuffix(ARGUMENT)
    if need(config) > free and any(way.config.context_length != asked.context_length for way in ways):
        length = _shorter(planner, config, need, free)
        if length is not None:
            config = replace(config, context_length=length)
            flags["context"] = _flag("context-length", length)
    nbytes = need(config)
    return Way(" ".join(flags.values()), config, has - nbytes, nbytes <= free)


def _flag(name: str, value: object) -> str:
    return f"--{name} {value}"
