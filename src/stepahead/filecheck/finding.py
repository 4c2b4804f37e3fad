"""One thing that is to be said of a model file, and what can be done about it."""

from dataclasses import dataclass
from typing import Literal

from stepahead.filecheck.repair import Repair

Severity = Literal["fault", "unclear", "note"]
"""fault: certainly wrong. unclear: looks wrong, a measurement would settle it. note: not wrong, but something that its
reader may expect is missing."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One concept of a file, however many tensors it touches."""

    kind: str  # "heads-missing", "norm-offset", "concat-order" …: the same word for the same fault, for programs
    severity: Severity
    where: str  # heads, a tensor or a metadata key
    what: str  # a clause without a full stop
    repair: Repair

    @property
    def sentence(self) -> str:
        """All of it in one line."""
        return f"{self.where}: {self.what}; {self.repair.text}"

    def as_object(self) -> dict[str, object]:
        """For JSON."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "where": self.where,
            "what": self.what,
            "repair": self.repair.text,
            "can_fix": self.repair.is_possible,
        }


def heads_named(numbers: list[int]) -> str:
    """Heads as people count them: "head 2", "heads 1 and 3", "heads 1 to 3"."""
    names = sorted(number + 1 for number in numbers)
    if len(names) == 1:
        return f"head {names[0]}"
    if len(names) > 2 and names[-1] - names[0] == len(names) - 1:
        return f"heads {names[0]} to {names[-1]}"
    return f"heads {', '.join(map(str, names[:-1]))} and {names[-1]}"
