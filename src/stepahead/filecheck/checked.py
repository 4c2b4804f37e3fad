"""The check of what a command line names: a file, or a trunk and its companion; with or without measuring."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stepahead.errors import ConfigError
from stepahead.filecheck.examine import examine
from stepahead.filecheck.finding import Finding
from stepahead.gguf import GGUFFile

if TYPE_CHECKING:
    from stepahead.backends.base import Backend
    from stepahead.filecheck.measure import Measurement, OnProgress

OF_HEADS = ("heads-missing", "heads-few")  # a companion has them
SETTLED = ("norm-offset", "untrained")  # by measuring, where it was unclear


@dataclass(frozen=True, slots=True, eq=False)
class Checked:
    """heads is file unless there is a companion. The views have every certain repair; without one, they are the files
    themselves."""

    file: GGUFFile
    heads: GGUFFile
    file_view: GGUFFile
    heads_view: GGUFFile
    findings: tuple[Finding, ...]
    measurement: "Measurement | None" = None

    @classmethod
    def of(cls, file: GGUFFile, companion: GGUFFile | None = None) -> "Checked":
        """From headers and samples."""
        findings, view = examine(file)
        if companion is None:
            return cls(file, file, view, view, findings)
        own, heads_view = examine(companion)
        name = companion.path.name
        findings = tuple(finding for finding in findings if finding.kind not in OF_HEADS)
        findings += tuple(replace(finding, where=f"{name}: {finding.where}") for finding in own)
        return cls(file, companion, view, heads_view, findings)

    @property
    def has_trunk(self) -> bool:
        return any(name.startswith("blk.0.") for name in self.file.tensors)

    @property
    def has_heads(self) -> bool:
        return any(".nextn." in name for name in self.heads.tensors)

    def measured(self, backend: "Backend", seconds: float, on_progress: "OnProgress | None" = None) -> "Checked":
        """With the verdict of the drafts. Raises what loading the repaired files raises."""
        from stepahead.filecheck.measure import measure  # noqa: PLC0415 - models and tokenizers, for this alone

        found = measure(self.file_view, self.heads_view, backend, seconds, on_progress)
        open_ones = [one for one in self.findings if one.severity == "unclear" and one.kind in SETTLED]
        kept = tuple(one for one in self.findings if not (found.is_judge and one in open_ones))
        return replace(
            self,
            findings=kept + found.findings,
            measurement=found,
            file_view=found.file_view,
            heads_view=found.heads_view,
        )

    def repaired(self) -> GGUFFile | None:
        """The one file that has repairs, as it would be; None: there is nothing to repair. ConfigError: both have."""
        changed = [(self.heads, self.heads_view)] if self.heads_view is not self.heads else []
        if self.heads is not self.file and self.file_view is not self.file:
            changed.append((self.file, self.file_view))
        if len(changed) > 1:
            raise ConfigError(
                f"{self.file.path} and {self.heads.path} both need repairs: repair the first alone, with --mtp off"
            )
        return changed[0][1] if changed else None

    def as_objects(self) -> list[dict[str, object]]:
        return [finding.as_object() for finding in self.findings]
