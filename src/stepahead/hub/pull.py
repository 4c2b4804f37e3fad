"""A pull from beginning to end: what is meant, which heads belong to it, the download, the name it gets.

Owns the order of the steps. Must not know: terminals.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from stepahead.errors import ConfigError, ModelFormatError, StepaheadError, UnsupportedModelError
from stepahead.hub import registry
from stepahead.hub.download import CONNECTIONS, OnProgress, download
from stepahead.hub.faults import demand_library
from stepahead.hub.header_facts import HeaderFacts, facts_of_file
from stepahead.hub.heads import FoundHeads, find_heads, named_heads
from stepahead.hub.hub_cache import blob_path, cache_job, link_blob, note_branch, pointer_path
from stepahead.hub.model_files import ModelFiles, ambiguous, check_complete, choose, group
from stepahead.hub.reference import Reference
from stepahead.hub.registry import PulledFile, PulledModel, pulled_file
from stepahead.hub.remote_file import RemoteFile
from stepahead.hub.remote_header import remote_facts
from stepahead.hub.remote_repo import RemoteRepo, open_repo
from stepahead.models.registry import FAMILIES

MAX_NAME = 180  # characters; it becomes a file's

OnNote = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pull will fetch. heads.heads: further files; () where there are none to fetch. note: what else is to be
    said of them, "" for nothing."""

    name: str
    repo: RemoteRepo
    model: ModelFiles
    facts: HeaderFacts
    heads: FoundHeads
    note: str = ""

    @property
    def files(self) -> tuple[RemoteFile, ...]:
        return (*self.model.files, *(file for one in self.heads.heads for file in one.files))

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)


def plan(
    reference: Reference,
    revision: str | None = None,
    name: str | None = None,
    heads: bool = True,
    heads_file: str | None = None,
) -> Plan:
    """Ask the hub what a reference means. Raises ConfigError for none or several, and for a file of heads alone.

    revision: of this repository, whatever is read of it; heads_file: those that the user names, None: to be found.
    """
    demand_library()
    assert reference.choice is not None
    repo = open_repo(reference.repo, revision)
    model, facts = _meant(repo, reference.choice)
    check_complete(model)
    if facts.is_heads_only:
        raise ConfigError(
            f"{repo.name}: {model.path} holds MTP heads alone: pull the model, its heads are fetched with it"
        )
    if facts.arch not in FAMILIES:
        raise UnsupportedModelError(
            f"{repo.name}: {model.path} is of architecture {facts.arch!r}; this version runs {', '.join(FAMILIES)}"
        )
    if heads_file is not None:
        found = named_heads(repo, facts, heads_file, remote_facts, open_repo)
    elif heads:
        found = find_heads(repo, model, facts, remote_facts, open_repo)
    else:
        found = FoundHeads((), _own(facts))
    return Plan(
        checked_name(name or default_name(repo, model)), repo, model, facts, found, _note(repo, revision, found)
    )


def fetch(wanted: Plan, connections: int = CONNECTIONS, on_progress: OnProgress | None = None) -> PulledModel:
    """Download into the hub's cache, link, check and register. Run again after whatever ended it, it goes on."""
    jobs = [cache_job(file, registry.is_verified(file)) for file in _distinct(wanted.files)]
    download(jobs, connections, on_progress)
    files = tuple(_link(file) for file in wanted.model.files)
    heads = tuple(_link(file) for one in wanted.heads.heads for file in one.files)
    note_branch(wanted.repo.name, wanted.repo.branch, wanted.repo.revision)
    check_pair(files, heads)
    model = PulledModel(
        name=wanted.name,
        repo=wanted.repo.name,
        revision=wanted.repo.revision,
        label=wanted.model.label,
        files=files,
        heads=heads,
        verdict=wanted.heads.verdict,
        pulled_at=registry.now(),
        branch=wanted.repo.branch,
    )
    registry.save(model)
    return model


def check_pair(files: Iterable[PulledFile], heads: Iterable[PulledFile]) -> None:
    """Open what was downloaded: headers may say otherwise than the first bytes did. Raises ModelFormatError."""
    trunk = facts_of_file(Path(next(iter(files)).local))
    for first in list(heads)[:1]:
        fault = facts_of_file(Path(first.local)).fault_as_heads_of(trunk)
        if fault is not None:
            raise ModelFormatError(f"{first.path}: these heads do not fit: {fault}")


def pulled_offline(reference: Reference, revision: str | None = None) -> PulledModel | None:
    """What an earlier pull of this left, if all of it is here."""
    found = registry.find(f"{reference.repo}:{reference.choice}")
    if found is None or not found.is_here or revision not in (None, found.branch, found.revision):
        return None
    return found


def default_name(repo: RemoteRepo, model: ModelFiles) -> str:
    """REPO:QUANTISATION, or REPO:PATH where several have it."""
    alike = [one for one in group(repo.files) if one.label == model.label and not one.has_heads_name]
    return f"{repo.name}:{model.label if len(alike) <= 1 else model.path.removesuffix('.gguf')}"


def checked_name(name: str) -> str:
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise ConfigError(f"{name[:40]!r} cannot be a name: give 1 to {MAX_NAME} printable characters with --name")
    return name


def _meant(repo: RemoteRepo, choice: str) -> tuple[ModelFiles, HeaderFacts]:
    """The one model that a choice means; of several, files of heads alone are not meant."""
    found = choose(repo.name, group(repo.files), choice)
    if len(found) == 1:
        return found[0], remote_facts(found[0])
    read = [(model, _facts_or_none(model)) for model in found]
    trunks = [(model, facts) for model, facts in read if facts is None or not facts.is_heads_only]
    if len(trunks) != 1:
        raise ambiguous(repo.name, choice, [model for model, _ in trunks] or found)
    model, facts = trunks[0]
    return model, remote_facts(model) if facts is None else facts


def _facts_or_none(model: ModelFiles) -> HeaderFacts | None:
    try:
        return remote_facts(model)
    except StepaheadError:
        return None


def _note(repo: RemoteRepo, revision: str | None, found: FoundHeads) -> str:
    """A revision is one of a single repository's."""
    others = [file.repo for one in found.heads for file in one.files if file.repo != repo.name]
    if revision is None or not others:
        return ""
    return f"--revision {revision} is of {repo.name}; the heads are of {others[0]} as it is now"


def _own(facts: HeaderFacts) -> str:
    return f"{facts.num_heads} MTP heads in the file; others were not looked for"


def _link(file: RemoteFile) -> PulledFile:
    return pulled_file(file, link_blob(file) if blob_path(file).exists() else pointer_path(file))


def _distinct(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """Two names may have the same bytes."""
    return list({(file.repo, file.digest): file for file in files}.values())
