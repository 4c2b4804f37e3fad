"""What a user calls a model: REPO, REPO:QUANTISATION or REPO:FILE. Must not know: what a repository holds."""

import re
from dataclasses import dataclass

from stepahead.errors import ConfigError

_REPO = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_PREFIXES = ("https://huggingface.co/", "huggingface.co/", "https://hf.co/", "hf.co/", "hf://")


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository and, of its files, a quantisation or the name of a file; None: not said yet."""

    repo: str
    choice: str | None

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Raises ConfigError for what cannot name a repository."""
        short = next((text.removeprefix(prefix) for prefix in _PREFIXES if text.startswith(prefix)), text)
        repo, colon, choice = short.partition(":")
        if not is_repo_name(repo):
            raise ConfigError(f"{text!r} names no repository: give OWNER/NAME, OWNER/NAME:Q4_K_M or OWNER/NAME:FILE")
        if colon and not choice:
            raise ConfigError(f"{text!r} ends with a colon: give a quantisation or a file after it, or leave it out")
        return cls(repo, choice or None)


def is_repo_name(text: str) -> bool:
    """Whether a hub could have a repository of this name; it becomes a part of addresses and of folders' names."""
    return _REPO.fullmatch(text) is not None and ".." not in text and "--" not in text
