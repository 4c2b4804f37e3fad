"""What goes where: the parts of a model's memory, by how the system gives them."""

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["file", "memory", "touched"]
"""file: pages of mapped files, which the system drops and reads again as it needs. memory: taken at once. touched:
memory that is taken as it is first written; counted whole."""

KV = "KV"
CACHE = "prefix cache"


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    nbytes: int
    kind: Kind


PROGRAM_CODE = Part("program", 24 << 20, "file")
"""Of Python, numpy, the libraries and ours."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Of one model with its settings, when every context is full.

    step_nbytes: weights that a token's pass reads. choices: what was left open and is decided, a line each.
    host_experts: layers whose routed experts stay in the host's memory, of a model that is elsewhere; host_nbytes: of
    those, pages of its file.
    """

    parts: tuple[Part, ...]
    context_length: int
    max_num_seqs: int
    kv_type: str
    step_nbytes: int
    choices: tuple[str, ...] = ()
    host_experts: tuple[int, ...] = ()
    host_nbytes: int = 0

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    @property
    def file_nbytes(self) -> int:
        """What may be dropped and read again: without it all runs, slowly."""
        return self.of_kind("file")

    @property
    def weight_nbytes(self) -> int:
        """Those of them that are weights."""
        return self.file_nbytes - sum(part.nbytes for part in self.parts if part == PROGRAM_CODE)

    @property
    def anonymous_nbytes(self) -> int:
        """What has to be there."""
        return self.nbytes - self.file_nbytes

    @property
    def cache_nbytes(self) -> int:
        """Of the prefix cache, beyond what the sequences need."""
        return self.of_name(CACHE)

    def of_kind(self, kind: Kind) -> int:
        return sum(part.nbytes for part in self.parts if part.kind == kind)

    def of_name(self, name: str) -> int:
        return sum(part.nbytes for part in self.parts if part.name == name)

    def by_name(self) -> dict[tuple[str, Kind], int]:
        """Bytes, those of parts of one name and kind together."""
        sums: dict[tuple[str, Kind], int] = {}
        for part in self.parts:
            sums[part.name, part.kind] = sums.get((part.name, part.kind), 0) + part.nbytes
        return sums

    def as_object(self) -> dict[str, Any]:
        """For JSON. Names are stable."""
        return {
            "context_length": self.context_length,
            "max_num_seqs": self.max_num_seqs,
            "kv_type": self.kv_type,
            "parts": [{"name": name, "kind": kind, "bytes": nbytes} for (name, kind), nbytes in self.by_name().items()],
            "file_bytes": self.file_nbytes,
            "memory_bytes": self.of_kind("memory"),
            "touched_bytes": self.of_kind("touched"),
            "bytes": self.nbytes,
            "host_experts": list(self.host_experts),
            "host_bytes": self.host_nbytes,
        }
