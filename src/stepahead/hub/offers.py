"""What a repository offers: its models with size and heads, which of them fit this machine, and the best."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stepahead.hub.header_facts import HeaderFacts
from stepahead.hub.model_files import ModelFiles, group
from stepahead.hub.remote_header import ReadRange, facts_of_all
from stepahead.hub.remote_repo import RemoteRepo
from stepahead.hub.transfer import read_range

OVERHEAD = 2_000_000_000  # keys and values of a moderate context, buffers, the rest of the system
FULL_PRECISION = ("F32", "F16", "FP16", "BF16")
MAX_HEADERS = 60

Fit = Literal["yes", "from disk", "unknown"]


@dataclass(frozen=True, slots=True)
class Offer:
    """facts None: the header was not read, `fault` says why. fit: in memory; otherwise pages come from the disk."""

    model: ModelFiles
    facts: HeaderFacts | None
    fault: str | None
    fit: Fit
    is_best: bool = False

    @property
    def is_heads_only(self) -> bool:
        return self.model.has_heads_name if self.facts is None else self.facts.is_heads_only

    @property
    def num_heads(self) -> int | None:
        """None: not known."""
        return None if self.facts is None else self.facts.num_heads


def offers(repo: RemoteRepo, memory: int | None, read: ReadRange = read_range) -> tuple[Offer, ...]:
    """Of each model of `repo`, the largest first; memory: bytes of this machine, None where it does not say."""
    models = group(repo.files)
    found = facts_of_all(models[:MAX_HEADERS], read)
    found += [(model, None, "not looked at: too many") for model in models[MAX_HEADERS:]]
    plain = [Offer(model, facts, fault, _fit(model.nbytes, memory)) for model, facts, fault in found]
    best = best_of(plain)
    return tuple(
        Offer(one.model, one.facts, one.fault, one.fit, is_best=best is not None and one.model is best.model)
        for one in plain
    )


def best_of(found: Sequence[Offer]) -> Offer | None:
    """The largest that fits, and of equals the one with more heads; the smallest where none fits.

    More than 8 bits a weight cost time and gain next to nothing: such files are taken only if there are no others.
    """
    models = [one for one in found if not one.is_heads_only and not one.model.num_missing]
    quantised = [one for one in models if one.model.label not in FULL_PRECISION] or models
    fitting = [one for one in quantised if one.fit == "yes"]
    if fitting:
        return max(fitting, key=lambda one: (one.model.nbytes, one.num_heads or 0))
    return min(quantised, key=lambda one: one.model.nbytes, default=None)


def _fit(nbytes: int, memory: int | None) -> Fit:
    if memory is None:
        return "unknown"
    return "yes" if nbytes + OVERHEAD <= memory else "from disk"
