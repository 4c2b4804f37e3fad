"""Decides whether a model fits, before it is loaded: refuses what cannot work, chooses a context, says what is slow.

What has to be there is all that is no page of a file, at its worst: every context full. Beyond the free memory it
would end the process some day, in the middle of an answer: that is refused. Weights are pages of files. Those that do
not fit are read again from the disk each time they are used: slow, but right, so that this is said and not refused.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from math import inf

from stepahead.config import AUTO_CONTEXT, AUTO_EXPERTS, DEFAULT_CONTEXT_LENGTH, EngineConfig
from stepahead.errors import CapacityError
from stepahead.memory.free import free_memory
from stepahead.memory.plan import MemoryPlan
from stepahead.memory.planner import Planner
from stepahead.memory.ways import STEP, gigabytes, largest, needed, ways_out

MARGIN = 0.05
"""Of the free memory, left alone by what is chosen and not asked for: other programs move, and so may the estimate."""

MODEST_CONTEXT = 4096
"""Chosen at most where the weights do not fit anyway: every page that a longer one takes makes each token slower."""

MAX_CACHE, CACHE_STEP = 1 << 50, 1 << 16
"""In bytes."""

DISK_GB_PER_SECOND = 2.0
"""Of a good disk, for a guess at what waits."""


@dataclass(frozen=True)
class Fitted:
    """The settings with their context decided; what the prefix cache may take, None: its default."""

    planner: Planner
    config: EngineConfig
    max_cache_nbytes: int | None = None
    choices: tuple[str, ...] = ()  # what was left open and is decided, a line each
    warnings: tuple[str, ...] = ()  # a line each

    @cached_property
    def plan(self) -> MemoryPlan:
        """Made when it is asked for, where so much is free that its last megabytes do not matter."""
        return replace(self.planner.plan(self.config, self.max_cache_nbytes), choices=self.choices)


def fit(planner: Planner, asked: EngineConfig, free: int | None) -> Fitted:
    """free: bytes that may be taken; None: unknown, and nothing is refused. Raises CapacityError for what cannot
    work."""
    config = _placed(planner, asked, free)
    choices = _experts_chosen(planner, asked, config)
    if asked.context_length == AUTO_CONTEXT:
        config = replace(config, context_length=_auto_context(planner, config, free))
        choices += (_chosen(planner, config, free),)
    # Experts on the host may be too many for its memory: that is looked at, and said, below.
    is_small = planner.most_nbytes(config) <= _room(free) and not planner.placement(config, 0).layers
    if free is None or is_small:
        return Fitted(planner, config, choices=choices)
    if needed(planner)(config) > free:
        raise CapacityError(_refusal(planner, config, free))
    limit = _cache_limit(planner, config, free)
    return Fitted(planner, config, limit, choices, tuple(_warnings(planner.plan(config, limit), limit, free)))


def _room(free: int | None) -> float:
    """For what is chosen and not asked for."""
    return inf if free is None else int(free * (1 - MARGIN))


def _placed(planner: Planner, asked: EngineConfig, free: int | None) -> EngineConfig:
    """With the layers decided whose experts stay on the host, where the memory is a GPU's. As few as can be: each makes
    every token slower. A context that is to be chosen gets what that leaves it, but a modest one at least."""
    if planner.place is None:
        return asked
    room = planner.place.free_nbytes if free is None else free
    lacking, config = 0, asked
    if asked.cpu_experts == AUTO_EXPERTS and asked.gpu_layers is None and room is not None:
        if asked.context_length == AUTO_CONTEXT:
            config = replace(asked, context_length=min(MODEST_CONTEXT, planner.model(asked).context_length))
        need = needed(planner)(config)
        lacking = need - int(room * (1 - MARGIN)) if need > room else 0
    return replace(asked, cpu_experts=len(planner.placement(config, lacking).layers), gpu_layers=None)


def _experts_chosen(planner: Planner, asked: EngineConfig, config: EngineConfig) -> tuple[str, ...]:
    found = planner.placement(config, 0)
    if asked.cpu_experts != AUTO_EXPERTS or asked.gpu_layers is not None or not found.layers:
        return ()
    first, last = found.layers[0], found.layers[-1]
    layers = f"layer {last}" if first == last else f"layers {first} to {last}"
    # The numbers depend on it: so it is said in words that it can be asked for with.
    return (
        f"cpu_experts={len(found.layers)}: the experts of {layers}, {gigabytes(found.host_nbytes)}, stay in the host's "
        "memory, and the CPU computes them",
    )


def _auto_context(planner: Planner, asked: EngineConfig, free: int | None) -> int:
    """The largest multiple of STEP with which all fits, weights and half of the prefix cache included."""
    most = planner.model(asked).context_length
    if free is None or most < STEP:
        return min(most, DEFAULT_CONTEXT_LENGTH)
    room = _room(free)

    def fits(length: int) -> bool:
        config = replace(asked, context_length=length)
        plan = planner.plan(config)
        kept = plan.cache_nbytes if asked.cache_gb is not None else plan.cache_nbytes // 2
        return plan.nbytes - plan.cache_nbytes + kept <= room

    def runs(length: int) -> bool:
        return needed(planner)(replace(asked, context_length=length)) <= room

    length = largest(STEP, most, STEP, fits)
    return length or largest(STEP, min(most, MODEST_CONTEXT), STEP, runs) or STEP


def _chosen(planner: Planner, config: EngineConfig, free: int | None) -> str:
    most = planner.model(config).context_length
    known = "how much memory is free is unknown here" if free is None else f"{gigabytes(free)} are free"
    return f"context_length=auto: {config.context_length:,} tokens of the model's {most:,}; {known}"


def _cache_limit(planner: Planner, config: EngineConfig, free: int) -> int | None:
    """None: its default fits. Else what all the rest leaves, but no less than half if the weights alone would gain."""
    if config.cache_gb is not None:
        return None
    plan = planner.plan(config)
    wanted = plan.cache_nbytes
    room = int(_room(free)) - (plan.nbytes - wanted)
    if room >= wanted or wanted == 0:
        return None
    has_to_fit = max(free - (plan.anonymous_nbytes - wanted), 0)
    most = min(max(room, wanted // 2), has_to_fit)
    # A cache holds more than it takes: most of its blocks are those of idle sequences.
    return largest(0, MAX_CACHE, CACHE_STEP, lambda limit: planner.plan(config, limit).cache_nbytes <= most)


def _warnings(plan: MemoryPlan, limit: int | None, free: int) -> list[str]:
    lines = []
    if limit is not None:
        lines.append(f"the prefix cache gets {gigabytes(plan.cache_nbytes)}, less than usual: no more memory is free")
    left = free - plan.anonymous_nbytes
    if plan.weight_nbytes > left:
        missing = 1 - left / plan.weight_nbytes
        nbytes = missing * plan.step_nbytes
        seconds = nbytes / (DISK_GB_PER_SECOND * 1e9)
        lines.append(
            f"of {gigabytes(plan.weight_nbytes)} of weights {gigabytes(left)} fit into memory: the others are read "
            f"from the disk again and again, {gigabytes(nbytes)} or more of the {gigabytes(plan.step_nbytes)} that "
            f"each token needs, which takes {seconds:.2g} s at {DISK_GB_PER_SECOND:g} GB/s"
        )
    host = free_memory() if plan.host_nbytes else None
    if host is not None and plan.host_nbytes > host:
        lines.append(
            f"of {gigabytes(plan.host_nbytes)} of experts {gigabytes(host)} fit into the host's memory: the others are "
            "read from the disk again and again"
        )
    return lines


def _refusal(planner: Planner, config: EngineConfig, free: int) -> str:
    """One line: what is needed, what there is, and the cheapest ways out."""
    plan = planner.plan(config, max_cache_nbytes=0)
    ways, together = ways_out(planner, config, free)
    need = plan.anonymous_nbytes
    place = "memory beside the pages of its files" if planner.place is None else f"the memory of {planner.place.name}"
    text = (
        f"{planner.file.path}: needs {gigabytes(need)} of {place} "
        f"({_largest_parts(plan)}), {gigabytes(need - free)} more than the {gigabytes(free)} that are free"
    )
    elsewhere = "" if planner.place is None else ", or --device cpu"
    if not ways:
        return f"{text}: no setting helps, take a smaller model{elsewhere}"
    text += ": " + "; ".join(map(str, ways))
    if together is not None:
        end = "fits" if together.is_enough else f"still needs {gigabytes(needed(planner)(together.config))}"
        text += f"; {together.flags} together: {end}"
    return text + elsewhere


def _largest_parts(plan: MemoryPlan) -> str:
    sums = [(nbytes, name) for (name, kind), nbytes in plan.by_name().items() if kind != "file"]
    return ", ".join(f"{name} {gigabytes(nbytes)}" for nbytes, name in sorted(sums, reverse=True)[:2])
