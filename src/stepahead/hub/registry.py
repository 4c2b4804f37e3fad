"""Names of pulled models, and what each stands for: files, checksums, heads. One small JSON file a name.

Needs no library and no network: it is asked whenever a model is opened. It lies beside our own cached files, never in
the hub's folders.
"""

import json
import os
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stepahead.errors import ConfigError
from stepahead.hub.remote_file import RemoteFile, is_safe_path
from stepahead.repack.folders import user_folder
from stepahead.repack.temporary import replacing

FORMAT = 1
_LIKE_A_NAME = re.compile(r"[\w.-]+/[\w.-]+:[^\\]+")
MAX_BYTES = 4 << 20  # of one entry


@dataclass(frozen=True, slots=True)
class PulledFile:
    """A verified file and where it lies; mtime_ns: when it was verified, for who wants to know if it is still so."""

    repo: str
    revision: str
    path: str
    nbytes: int
    digest: str
    local: str
    mtime_ns: int

    @property
    def remote(self) -> RemoteFile:
        return RemoteFile(self.repo, self.revision, self.path, self.nbytes, self.digest)

    @property
    def is_here(self) -> bool:
        try:
            return Path(self.local).stat().st_size == self.nbytes
        except OSError:
            return False

    @property
    def is_unchanged(self) -> bool:
        """Whether nobody wrote to it since it was verified."""
        return self.is_here and Path(self.local).stat().st_mtime_ns == self.mtime_ns


@dataclass(frozen=True, slots=True)
class PulledModel:
    """name: REPO:QUANTISATION, or what the user chose. heads: of another file, if any; verdict: a sentence on them."""

    name: str
    repo: str
    revision: str
    label: str
    files: tuple[PulledFile, ...]
    heads: tuple[PulledFile, ...]
    verdict: str
    pulled_at: float
    branch: str | None = None  # or tag, that was asked for; None: a commit, or an entry that does not say

    @property
    def pull_command(self) -> str:
        """What fetches the same again."""
        is_plain = self.name.startswith(f"{self.repo}:") and "/" not in self.name[len(self.repo) + 1 :]
        wanted = self.name if is_plain else f"{self.repo}:{self.files[0].path} --name {shlex.quote(self.name)}"
        at = self.branch or self.revision
        return f"stepahead pull {wanted}" + ("" if at == "main" else f" --revision {at}")

    @property
    def path(self) -> Path:
        return Path(self.files[0].local)

    @property
    def heads_path(self) -> Path | None:
        return Path(self.heads[0].local) if self.heads else None

    @property
    def all_files(self) -> tuple[PulledFile, ...]:
        return (*self.files, *self.heads)

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.all_files)

    @property
    def is_here(self) -> bool:
        return all(file.is_here for file in self.all_files)


def locate(model: str | Path, mtp: str | Path) -> tuple[Path, Path | None]:
    """(file to open, companion with the heads or None) of a path or a pulled name. A path that exists wins.

    mtp: "auto" takes the heads that were linked, "off" none, anything else is a companion as locate_heads takes it.
    Raises ConfigError for a name whose files have gone.
    """
    path = Path(model)
    companion = None if str(mtp) in ("auto", "off") else locate_heads(mtp)
    is_path = os.path.lexists(path)
    pulled = _of_path(path) if is_path else find(str(model))
    if pulled is None:
        if not is_path:
            _refuse_unknown(str(model))
        return path, companion
    wanted = (*pulled.files, *(pulled.heads if str(mtp) == "auto" else ()))
    gone = next((file for file in wanted if not file.is_here), None)
    if gone is not None and not is_path:
        raise ConfigError(
            f"{pulled.name}: {gone.local} is gone or has changed its size: run `{pulled.pull_command}` again"
        )
    with suppress(OSError):  # when it was last used
        os.utime(_entry_path(pulled.name))
    linked = pulled.heads_path if str(mtp) == "auto" and gone is None else companion
    return (path if is_path else pulled.path), linked


def locate_heads(heads: str | Path) -> Path:
    """The file that holds heads: the one at a path, or of a pulled name the file that was linked, else its own."""
    if os.path.lexists(heads):
        return Path(heads)
    path, companion = locate(heads, "auto")
    return companion or path


def find(name: str) -> PulledModel | None:
    """By its name, or by the end of it after the owner, if only one has that; case does not matter."""
    found = _meant(name)
    return found[0] if len(found) == 1 else None


def _meant(name: str) -> list[PulledModel]:
    """All that a name may be of."""
    wanted = name.lower()
    models = list(all_models())
    exact = [model for model in models if model.name == name] or [m for m in models if m.name.lower() == wanted]
    return exact or [model for model in models if model.name.lower().rpartition("/")[2] == wanted]


def _refuse_unknown(name: str) -> None:
    """Raises ConfigError for what is neither a file nor one name; what looks like a file's is left to be opened."""
    several = [model.name for model in _meant(name)]
    if several:
        raise ConfigError(f"{name}: may be any of {', '.join(several)}; give one of these names")
    if _LIKE_A_NAME.fullmatch(name):
        raise ConfigError(f"{name}: no such file, and nothing was pulled as that: run `stepahead pull {name}`")
    if not name.endswith(".gguf") and name.isprintable():
        raise ConfigError(f"{name}: no such file, and no name that `stepahead list` shows")


def demand(name: str) -> PulledModel:
    """Raises ConfigError, naming what there is."""
    found = find(name)
    if found is None:
        names = ", ".join(model.name for model in all_models()) or "nothing has been pulled"
        raise ConfigError(f"{name!r} is no name of a pulled model, or not of one alone: {names}")
    return found


def all_models() -> Iterator[PulledModel]:
    """In the order of their files; entries that cannot be read are left out."""
    try:
        folder = _folder()
    except ConfigError:  # whoever writes there is told
        folder = None
    for path in sorted(folder.glob("*.json")) if folder is not None else ():
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            if path.stat().st_size <= MAX_BYTES:
                yield from_json(json.loads(path.read_text(encoding="utf-8")))


def save(model: PulledModel) -> None:
    """Raises ConfigError where there is no folder for it."""
    path = _entry_path(model.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, 0o644) as file:
            file.write(to_json(model).encode())
    except OSError as error:
        raise ConfigError(
            f"{path.parent}: cannot be written: {error.strerror}; name another with STEPAHEAD_CACHE"
        ) from None


def forget(model: PulledModel) -> None:
    _entry_path(model.name).unlink(missing_ok=True)


def unused(model: PulledModel) -> tuple[PulledFile, ...]:
    """Its files that are here and that no name stands for any more."""
    used = {file.local for other in all_models() for file in other.all_files}
    return tuple(file for file in model.all_files if file.local not in used and file.is_here)


def last_used(model: PulledModel) -> float:
    """Seconds since 1970."""
    try:
        return _entry_path(model.name).stat().st_mtime
    except OSError:
        return model.pulled_at


def is_verified(file: RemoteFile) -> bool:
    """Whether a file of this checksum was verified here and has not been written to since."""
    known = (one for model in all_models() for one in model.all_files)
    return any(one.digest == file.digest and one.repo == file.repo and one.is_unchanged for one in known)


def pulled_file(file: RemoteFile, local: Path) -> PulledFile:
    stat = local.stat()
    return PulledFile(
        file.repo, file.revision, file.path, file.nbytes, file.digest, str(local.absolute()), stat.st_mtime_ns
    )


def to_json(model: PulledModel) -> str:
    return json.dumps({"format": FORMAT, **asdict(model)}, indent=1)


def from_json(data: Any) -> PulledModel:
    """Raises ValueError, KeyError or TypeError for what to_json did not write."""
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']!r} is not {FORMAT}")
    files, heads = (tuple(_file(one) for one in data[key]) for key in ("files", "heads"))
    if not files:
        raise ValueError("no files")
    text = {key: _text(data[key]) for key in ("name", "repo", "revision", "label", "verdict")}
    branch = None if data.get("branch") is None else _text(data["branch"])
    return PulledModel(**text, files=files, heads=heads, pulled_at=float(data["pulled_at"]), branch=branch)


def now() -> float:
    return time.time()


def _file(data: Any) -> PulledFile:
    text = {key: _text(data[key]) for key in ("repo", "revision", "path", "digest", "local")}
    if not is_safe_path(text["path"]):
        raise ValueError(f"a path that leads elsewhere: {text['path']!r}")
    return PulledFile(**text, nbytes=_number(data["nbytes"]), mtime_ns=_number(data["mtime_ns"]))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is no integer")
    return value


def _of_path(path: Path) -> PulledModel | None:
    """The model whose first file this is, by any of its names."""
    for model in all_models():
        with suppress(OSError):
            if model.heads and path.samefile(model.path):
                return model
    return None


def _folder() -> Path | None:
    folder = user_folder()
    return None if folder is None else folder / "models"


def _entry_path(name: str) -> Path:
    folder = _folder()
    if folder is None:
        raise ConfigError("there is no home folder to keep names in: set STEPAHEAD_CACHE")
    return folder / f"{quote(name, safe='')}.json"
