"""What was written, and what of it a reader may want to know."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stepahead.gguf import GGUFFile
from stepahead.model_info import EXPECTED_HEADS
from stepahead.splice.likeness import Likeness
from stepahead.splice.parts import FileParts


@dataclass(frozen=True, slots=True)
class SplicedFile:
    """nbytes: of the file, of which shared_bytes take no room: their blocks are those of an input."""

    path: Path
    nbytes: int
    shared_bytes: int
    num_tensors: int


@dataclass(frozen=True, slots=True)
class SpliceReport:
    """num_heads: in the outcome, or in the file of heads. bytes_by_type: of these heads."""

    files: tuple[SplicedFile, ...]
    num_trunk_layers: int
    num_heads: int
    bytes_by_type: dict[str, int]
    embeddings: Likeness | None  # None: of one file only
    notes: tuple[str, ...]
    seconds: float
    left_over: tuple[Path, ...]  # of runs that were killed


def bytes_by_type(file: GGUFFile, names: Iterable[str]) -> dict[str, int]:
    """Of these tensors, the largest share first."""
    counts: Counter[str] = Counter()
    for name in names:
        counts[file.tensors[name].type.name] += file.tensors[name].nbytes
    return dict(counts.most_common())


def notes_on_heads(heads: FileParts) -> list[str]:
    """What a file of heads, or a full one, is short of."""
    notes, count = [], heads.num_heads
    if count < heads.num_declared:
        declared = heads.num_declared
        notes.append(f"{heads.file.path} declares {declared} MTP heads and has {count}: the new file declares {count}")
    if count < EXPECTED_HEADS:
        drafts = "the one head makes every draft token" if count == 1 else f"drafts have {count} tokens at most"
        notes.append(f"{count} of the published model's {EXPECTED_HEADS} MTP heads: {drafts}")
    without = count - sum(name.endswith(".nextn.shared_head_head.weight") for name in heads.heads)
    if without:
        notes.append(f"{without} of {count} heads have no output matrix of their own and use the trunk's output.weight")
    return notes


def note_on_embeddings(likeness: Likeness) -> list[str]:
    """How sure it is that these heads belong to this trunk."""
    match likeness.verdict:
        case "unknown":
            return ["one of the files has no token embeddings: whether the heads belong to this trunk was not compared"]
        case "alike" if likeness.types is not None:
            own, other = likeness.types
            return [f"token embeddings are {own} and {other}, alike: correlation {likeness.correlation:.4f}"]
        case "different":
            return [f"token embeddings differ (correlation {likeness.correlation or 0:.4f}): drafts may never be right"]
    return []
