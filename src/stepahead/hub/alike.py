"""Which of several files of heads, all of which may fit by their shapes, is a trunk's own: by names and by what the
files say of where they come from.

Two generations of a model may have the same shapes; heads of the other one would only make drafts that are rejected,
and nothing but the speed would ever tell. So nothing is guessed here.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from stepahead.hub.header_facts import HeaderFacts
from stepahead.hub.model_files import ModelFiles, without_quantisation

_WORD = re.compile(r"\d+(?:\.\d+)*|[a-z]+")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_SAYS_NOTHING = frozenset(("mtp", "nextn", "heads", "head", "draft", "gguf", "of", "the", "for"))

Words = frozenset[str]


@dataclass(frozen=True, slots=True)
class Kind:
    """Heads of one model, in files of several types: the best that fits, and what it says of itself."""

    model: ModelFiles
    facts: HeaderFacts

    @property
    def words(self) -> Words:
        return words_of(self.model.path)


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of a trunk: where its files lie, its headers, and what the card of its repository is made from."""

    repo: str
    bases: tuple[str, ...]
    model: ModelFiles
    facts: HeaderFacts


def words_of(*names: str) -> Words:
    """What names say, without types of weights and numbers of shards."""
    text = " ".join(_SHARD.sub("", without_quantisation(name)) for name in names)
    return frozenset(_WORD.findall(text.lower())) - _SAYS_NOTHING


def of_one_kind(models: Iterable[ModelFiles]) -> list[list[ModelFiles]]:
    """Files whose names differ by the type of their weights alone, or not at all in their bytes, together, in order."""
    kinds: list[list[ModelFiles]] = []
    for model in models:
        digests = [file.digest for file in model.files]
        for kind in kinds:
            same = [file.digest for file in kind[0].files] == digests
            if same or words_of(kind[0].path) == words_of(model.path):
                kind.append(model)
                break
        else:
            kinds.append([model])
    return kinds


def own_of(origin: Origin, kinds: Sequence[Kind]) -> list[Kind]:
    """The one whose names and facts are the trunk's; several if nothing tells them apart."""
    most = max(kind.facts.num_heads for kind in kinds)
    left = [kind for kind in kinds if kind.facts.num_heads == most]
    for narrow in (_by_bases, _by_title, _by_path, _by_repository):
        if len(left) > 1:
            left = narrow(origin, left) or left
    return left


def _by_bases(origin: Origin, kinds: list[Kind]) -> list[Kind]:
    """What the headers, or else the card, say that both were made from."""
    for bases in (origin.facts.bases, frozenset(base.lower() for base in origin.bases)):
        found = [kind for kind in kinds if kind.facts.bases & bases]
        if found:
            return found
    return []


def _by_title(origin: Origin, kinds: list[Kind]) -> list[Kind]:
    return _by_words(kinds, words_of(origin.facts.name), lambda kind: words_of(kind.facts.name))


def _by_path(origin: Origin, kinds: list[Kind]) -> list[Kind]:
    return _by_words(kinds, words_of(origin.model.path), lambda kind: kind.words)


def _by_repository(origin: Origin, kinds: list[Kind]) -> list[Kind]:
    return _by_words(kinds, words_of(origin.repo, *origin.bases), lambda kind: kind.words)


def _by_words(kinds: list[Kind], known: Words, words: Callable[[Kind], Words]) -> list[Kind]:
    """Those of whose names all that tells them from the others is known of the trunk, the most of it; else those that
    are of no other version."""
    common = frozenset.intersection(*map(words, kinds))
    special = {kind.model.path: words(kind) - common for kind in kinds}
    told = [kind for kind in kinds if special[kind.model.path] and special[kind.model.path] <= known]
    if told:
        most = max(len(special[kind.model.path]) for kind in told)
        return [kind for kind in told if len(special[kind.model.path]) == most]
    versions = _versions(known)
    return [kind for kind in kinds if not versions or _versions(special[kind.model.path]) <= versions]


def _versions(words: Words) -> Words:
    return frozenset(word for word in words if "." in word)
