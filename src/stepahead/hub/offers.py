"""What a repository offers: its models with size and heads, which of them fit this machine, and the best."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stepahead.errors import DownloadError
from stepahead.hub.alike import Origin
from stepahead.hub.header_facts import HeaderFacts
from stepahead.hub.heads import OpenRepo, companion_repo, heads_among, in_order
from stepahead.hub.model_files import ModelFiles, group
from stepahead.hub.need import Fit, Need, Needs
from stepahead.hub.remote_header import ReadHeader, ReadRange, headers_of_all
from stepahead.hub.remote_repo import RemoteRepo
from stepahead.hub.transfer import read_range
from stepahead.hub.unread_model import UnreadModel
from stepahead.models.registry import FAMILIES

FULL_PRECISION = ("F32", "F16", "FP16", "BF16")
MAX_HEADERS = 60
NUM_HEADS = 3  # with as many no others are looked for


@dataclass(frozen=True, slots=True)
class Offer:
    """facts None: the header was not read, `fault` says why. need: heads that would be pulled with it included."""

    model: ModelFiles
    facts: HeaderFacts | None
    fault: str | None
    need: Need
    fit: Fit
    is_best: bool = False

    @property
    def is_heads_only(self) -> bool:
        return self.model.has_heads_name if self.facts is None else self.facts.is_heads_only

    @property
    def num_heads(self) -> int | None:
        """None: not known."""
        return None if self.facts is None else self.facts.num_heads


def offers(
    repo: RemoteRepo, memory: int | None, read: ReadRange = read_range, open_repo: OpenRepo | None = None
) -> tuple[Offer, ...]:
    """Of each model of `repo`, the largest first; memory: bytes of this machine, None where it does not say.

    open_repo: asked for the repository that has the heads if this one has none; of its files no header is read.
    """
    models = group(repo.files)
    found = headers_of_all(models[:MAX_HEADERS], read)
    found += [ReadHeader(model, None, None, "not looked at: too many") for model in models[MAX_HEADERS:]]
    linked, needs = _Linked(repo, found, open_repo), Needs()
    plain = []
    for one in found:
        heads, more = linked.heads_of(one)
        need = needs.of(one.model.nbytes, one.unread, heads, more)
        plain.append(Offer(one.model, one.facts, one.fault, need, need.fit(memory)))
    best = best_of(plain)
    return tuple(replace(one, is_best=best is not None and one.model is best.model) for one in plain)


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


class _Linked:
    """The heads that a pull would fetch with a model, as far as this is known without reading more."""

    def __init__(self, repo: RemoteRepo, found: Sequence[ReadHeader], open_repo: OpenRepo | None) -> None:
        self._repo, self._open_repo = repo, open_repo
        self._read = {one.model.path: one for one in found}
        self._companion_nbytes: int | None = None

    def heads_of(self, one: ReadHeader) -> tuple[UnreadModel | None, int]:
        """The header of heads in this repository, or the bytes of heads in another one."""
        facts = one.facts
        if facts is None or facts.is_heads_only or facts.num_heads >= NUM_HEADS or facts.arch not in FAMILIES:
            return None, 0
        origin = Origin(self._repo.name, self._repo.bases, one.model, facts)
        own = heads_among([other.model for other in self._read.values()], origin, self._facts, [])
        return (self._read[own[0].model.path].unread, 0) if own else (None, self._elsewhere())

    def _facts(self, model: ModelFiles) -> HeaderFacts:
        facts = self._read[model.path].facts
        if facts is None:
            raise DownloadError(f"{model.path}: its header was not read")
        return facts

    def _elsewhere(self) -> int:
        if self._companion_nbytes is None:
            companion = None if self._open_repo is None else companion_repo(self._repo, self._open_repo, [])
            models = [] if companion is None else in_order(group(companion.files))
            self._companion_nbytes = models[0].nbytes if models else 0
        return self._companion_nbytes
