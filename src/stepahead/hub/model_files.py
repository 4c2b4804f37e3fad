"""The models of a repository: files put together by their names, and the one that a user means.

Must not know: what the files hold; a name is a promise, and headers are read elsewhere.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stepahead.errors import ConfigError
from stepahead.gguf.shard import parse_shard_path
from stepahead.hub.remote_file import RemoteFile

_QUANTISATION = re.compile(
    r"(?:UD-)?(?:I?Q\d(?:_[0-9A-Z]{1,3}){0,3}|TQ\d_\d|BF16|F16|F32|FP16|FP8|MXFP4(?:_MOE)?|NVFP4)(?![0-9A-Z_])", re.I
)
_HEADS = re.compile(r"(?<![a-z])(?:mtp|nextn)(?![a-z])", re.I)
_NO_MODEL = re.compile(r"mmproj|imatrix|(?<![a-z])lora(?![a-z])", re.I)
MAX_NAMED = 12  # candidates in an error


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """One model: a file, or the shards of a split one, in order. label: its quantisation, or its name if none."""

    label: str
    files: tuple[RemoteFile, ...]
    num_missing: int = 0

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)

    @property
    def path(self) -> str:
        return self.files[0].path

    @property
    def has_heads_name(self) -> bool:
        """Whether it is called as files of MTP heads are; some that hold the trunk as well are, too."""
        return _HEADS.search(self.files[0].name) is not None


def group(files: Iterable[RemoteFile]) -> tuple[ModelFiles, ...]:
    """Shards joined; projectors and importance matrices left out; the largest first."""
    together: dict[tuple[str, int], list[RemoteFile]] = {}
    for file in files:
        if _NO_MODEL.search(file.name):
            continue
        shard = parse_shard_path(Path(file.path))
        key = (file.path, 0) if shard is None else (shard[0].as_posix(), shard[2])
        together.setdefault(key, []).append(file)
    models = [_model(prefix, count, found) for (prefix, count), found in together.items()]
    return tuple(sorted(models, key=lambda model: (-model.nbytes, model.path)))


def choose(repo: str, models: Sequence[ModelFiles], choice: str) -> tuple[ModelFiles, ...]:
    """Those that `choice` may mean: a file's name or path, else a quantisation. Raises ConfigError for none."""
    by_name = [model for model in models if any(choice in (file.path, file.name) for file in model.files)]
    wanted = choice.lower()
    by_label = [model for model in models if model.label.lower() == wanted]
    # Some name their own mixes UD-Q4_K_XL; nobody else's is meant where there is no other.
    by_ending = [model for model in models if model.label.lower().endswith(f"-{wanted}")]
    found = by_name or by_label or by_ending
    if not found:
        labels = ", ".join(dict.fromkeys(model.label for model in models)) or "none"
        raise ConfigError(f"{repo}: has no {choice!r}; it has: {_clip(labels)}")
    return tuple(found)


def ambiguous(repo: str, choice: str, models: Sequence[ModelFiles]) -> ConfigError:
    names = ", ".join(f"{repo}:{model.path}" for model in models[:MAX_NAMED])
    return ConfigError(f"{repo}: {choice!r} may be any of {len(models)}; give one: {names}")


def check_complete(model: ModelFiles) -> None:
    if model.num_missing:
        raise ConfigError(
            f"{model.files[0].repo}: {model.path} and others are {len(model.files)} of "
            f"{len(model.files) + model.num_missing} shards; the repository lacks the rest: take another quantisation"
        )


def quantisation(path: str) -> str | None:
    """As the name says, in capitals; the last mention counts, the folder's if the file has none."""
    for part in reversed(path.split("/")):
        found = [match[0].upper() for match in _QUANTISATION.finditer(part) if _begins_word(part, match.start())]
        if found:
            return found[-1]
    return None


def without_quantisation(path: str) -> str:
    """A path without what its parts say of the type of its weights."""
    return _QUANTISATION.sub(lambda match: "" if _begins_word(match.string, match.start()) else match[0], path)


def _begins_word(text: str, start: int) -> bool:
    return start == 0 or not text[start - 1].isalnum()


def _model(prefix: str, count: int, files: list[RemoteFile]) -> ModelFiles:
    label = quantisation(prefix.removesuffix(".gguf")) or prefix.rsplit("/", 1)[-1].removesuffix(".gguf")
    missing = max(count - len(files), 0) if count else 0
    return ModelFiles(label, tuple(sorted(files, key=lambda file: file.path)), missing)


def _clip(text: str) -> str:
    return text if len(text) <= 400 else f"{text[:400]}…"
