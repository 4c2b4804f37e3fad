"""All that a file says of itself, without running it."""

from collections.abc import Callable, Iterator

import numpy as np

from stepahead.errors import ModelFormatError
from stepahead.filecheck.attention_checks import check_attention
from stepahead.filecheck.finding import Finding
from stepahead.filecheck.head_checks import check_heads
from stepahead.filecheck.layout import ARCH, Layout
from stepahead.filecheck.norm_checks import check_norms
from stepahead.filecheck.patched_file import PatchedFile
from stepahead.filecheck.repair import Repair
from stepahead.filecheck.weight_checks import check_weights
from stepahead.gguf import GGUFFile

CHECKS: tuple[Callable[[Layout], Iterator[Finding]], ...] = (check_heads, check_attention, check_norms, check_weights)
MAX_REPAIRS = 32  # one after the other; each check has at most a few


def examine(file: GGUFFile) -> tuple[tuple[Finding, ...], GGUFFile]:
    """The findings, and the file with every certain fault repaired that can be: the file itself if there is none.

    Repairs are made one by one and the rest looked for anew, because one may hide another: of lists that are too short
    nobody can say whether they are right. A file of an architecture without heads of ours has no findings.
    """
    view, repaired = file, list[Finding]()
    for _ in range(MAX_REPAIRS):
        found = _checked(view)
        faults = [finding for finding in found if finding.severity == "fault" and finding.repair.is_possible]
        fault = next((finding for finding in faults if not _is_among(finding, repaired)), None)
        if fault is None:
            break
        repaired.append(fault)
        view = PatchedFile(view, fault.repair)
    return (*repaired, *(finding for finding in found if not _is_among(finding, repaired))), view


def _checked(file: GGUFFile) -> tuple[Finding, ...]:
    if file.metadata.get("general.architecture") != ARCH:
        return ()
    try:
        layout = Layout.of(file)
        with np.errstate(all="ignore"):  # a damaged number is a finding, not a warning
            return tuple(finding for check in CHECKS for finding in check(layout))
    except ModelFormatError as error:  # metadata of wrong types
        what = str(error).removeprefix(f"{file.path}: ")
        return (Finding("metadata", "fault", "metadata", what, Repair("convert it again")),)


def _is_among(finding: Finding, others: list[Finding]) -> bool:
    same = (finding.kind, finding.where, finding.severity)
    return any(same == (other.kind, other.where, other.severity) for other in others)
