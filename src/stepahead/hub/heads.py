"""Where the MTP heads of a model are: in its own files, beside them, or in the official repository of its kind.

By names, headers and the card of the repository; every answer says where it looked.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from stepahead.errors import ConfigError, StepaheadError
from stepahead.hub.alike import Kind, Origin, of_one_kind, own_of
from stepahead.hub.companions import companion_of
from stepahead.hub.header_facts import HeaderFacts
from stepahead.hub.model_files import MAX_NAMED, ModelFiles, ambiguous, check_complete, choose, group
from stepahead.hub.reference import Reference
from stepahead.hub.remote_repo import RemoteRepo

# Q8_0 drafts as BF16 does, at half the bytes; below it agreement falls (0.724 at BF16, 0.720 at Q4_K, 0.633 at IQ2_XS
# measured by others on one model: https://github.com/ggml-org/llama.cpp/issues/28351).
PREFERRED = ("Q8_0", "BF16", "F16", "Q6_K", "F32", "Q5_K_M", "Q5_K_S", "Q5_K", "Q5_0", "Q4_K_M", "Q4_K", "Q4_0")
MAX_BASES = 3  # steps from a quantisation of a pruning of … to the model itself

FactsOf = Callable[[ModelFiles], HeaderFacts]
OpenRepo = Callable[[str], RemoteRepo]


@dataclass(frozen=True, slots=True)
class FoundHeads:
    """heads: files to download as well; () where the model has its own, or where none were found. verdict: which."""

    heads: tuple[ModelFiles, ...]
    verdict: str


def find_heads(
    repo: RemoteRepo, model: ModelFiles, trunk: HeaderFacts, facts_of: FactsOf, open_repo: OpenRepo, expected: int = 3
) -> FoundHeads:
    """The best heads for a trunk of `repo`. A hub that fails on the way is said, not raised.

    Raises ConfigError for heads of several models that fit, if nothing says which of them is meant.
    """
    if trunk.num_heads >= expected:
        return FoundHeads((), f"{trunk.num_heads} MTP heads in the file")
    looked: list[str] = []
    origin = Origin(repo.name, repo.bases, model, trunk)
    for place, models in _places(repo, open_repo, looked):
        own = heads_among(models, origin, facts_of, looked)
        if len(own) > 1:
            raise _ambiguous(place, model, own)
        if own:
            return _found(place, own[0])
    own_heads = f"{trunk.num_heads} of {expected} MTP heads in the file" if trunk.num_heads else "no MTP heads"
    return FoundHeads((), f"{own_heads}; no others were found ({'; '.join(looked)})")


def heads_among(models: Sequence[ModelFiles], origin: Origin, facts_of: FactsOf, looked: list[str]) -> list[Kind]:
    """Heads for a trunk; those of several models where nothing says which are its own. looked: what was not taken."""
    kinds = [_best(kind, origin.facts, facts_of, looked) for kind in of_one_kind(in_order(models))]
    fitting = [kind for kind in kinds if kind is not None]
    return own_of(origin, fitting) if fitting else []


def named_heads(repo: RemoteRepo, trunk: HeaderFacts, text: str, facts_of: FactsOf, open_repo: OpenRepo) -> FoundHeads:
    """Those that a user names: a file of `repo`, or OWNER/NAME:FILE. Raises ConfigError for none that fit."""
    place, choice = repo, text
    if ":" in text:
        reference = Reference.parse(text)
        assert reference.choice is not None
        choice = reference.choice
        place = repo if reference.repo.lower() == repo.name.lower() else open_repo(reference.repo)
    found = choose(place.name, group(place.files), choice)
    meant = [model for model in found if model.has_heads_name] or list(found)
    if len(meant) > 1:
        raise ambiguous(place.name, choice, meant)
    check_complete(meant[0])
    facts = facts_of(meant[0])
    fault = facts.fault_as_heads_of(trunk)
    if fault is not None:
        raise ConfigError(f"{place.name}: {meant[0].path} does not fit: {fault}; give another file with --heads-file")
    return _found(place.name, Kind(meant[0], facts))


def companion_repo(repo: RemoteRepo, open_repo: OpenRepo, looked: list[str]) -> RemoteRepo | None:
    """The official repository for the model that a card names, through the cards of models made from it."""
    bases, seen = repo.bases, {repo.name.lower()}
    for _ in range(MAX_BASES):
        names = [name for name in (companion_of(base) for base in bases) if name is not None]
        try:
            if names:
                return None if names[0].lower() in seen else open_repo(names[0])
            unseen = [base for base in bases if base.lower() not in seen]
            if not unseen:
                break
            seen.add(unseen[0].lower())
            bases = open_repo(unseen[0]).bases
        except StepaheadError as error:
            looked.append(str(error))
            return None
    looked.append(
        f"the card of {repo.name} names no base model" if not repo.bases else f"no heads are known for {repo.bases[0]}"
    )
    return None


def _best(models: Sequence[ModelFiles], trunk: HeaderFacts, facts_of: FactsOf, looked: list[str]) -> Kind | None:
    """The first of one kind that fits, and has more heads than the trunk itself."""
    for model in models:
        try:
            facts = facts_of(model)
        except StepaheadError as error:
            looked.append(f"{model.path}: {error}")
            continue
        if not facts.is_heads_only:
            continue
        fault = facts.fault_as_heads_of(trunk)
        if fault is not None:
            looked.append(f"{model.path} does not fit: {fault}")
        elif facts.num_heads > trunk.num_heads:
            return Kind(model, facts)
    return None


def _found(place: str, kind: Kind) -> FoundHeads:
    return FoundHeads((kind.model,), f"{kind.facts.num_heads} MTP heads from {place}:{kind.model.path}")


def _ambiguous(place: str, trunk: ModelFiles, kinds: Sequence[Kind]) -> ConfigError:
    names = ", ".join(f"{place}:{kind.model.path}" for kind in kinds[:MAX_NAMED])
    return ConfigError(
        f"{place}: heads of {len(kinds)} models fit {trunk.path}, and nothing says which are its own: give one with "
        f"--heads-file: {names}"
    )


def _places(repo: RemoteRepo, open_repo: OpenRepo, looked: list[str]) -> Iterator[tuple[str, Sequence[ModelFiles]]]:
    yield repo.name, group(repo.files)
    looked.append(f"{repo.name} has no file of heads that fits")
    companion = companion_repo(repo, open_repo, looked)
    if companion is not None:
        yield companion.name, group(companion.files)
        looked.append(f"nor has {companion.name}")


def in_order(models: Sequence[ModelFiles]) -> list[ModelFiles]:
    """Those that are called as heads are, the best type first."""
    named = [model for model in models if model.has_heads_name and not model.num_missing]
    place = {label: index for index, label in enumerate(PREFERRED)}
    return sorted(named, key=lambda model: (place.get(model.label, len(place)), -model.nbytes))
