"""Built-in texts, by kind: what drafting gains depends on what is written, so measurements name the kind.

Written for this purpose. Of an edit the continuation is known, since most of it stands in the prompt: it is played
back as a recording. Of the other kinds the model writes its own.
"""

from dataclasses import dataclass
from pathlib import Path

from stepahead.errors import ConfigError

KINDS = ("code", "edit", "prose", "chat", "json", "translation")
_DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt; with a continuation, if what follows is given."""

    kind: str
    prompt: str
    continuation: str | None = None


def load(kind: str) -> tuple[Text, ...]:
    """The texts of one kind, always in the same order. Raises ConfigError for a kind that there is not."""
    if kind not in KINDS:
        raise ConfigError(f"there are no texts of kind {kind!r}: give one of {', '.join(KINDS)}")
    prompts = sorted(_DATA.glob(f"{kind}-?.txt"))
    return tuple(Text(kind, _read(path), _recording(path)) for path in prompts)


def _recording(path: Path) -> str | None:
    recording = path.with_suffix(".recording.txt")
    return _read(recording) if recording.exists() else None


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8")  # line ends as they were written, on every system
