"""What `inspect` and `doctor` say of a file itself: its findings, the contracts that its heads were tried under."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from stepahead.cli import options as o
from stepahead.cli.console import Bar, stdout, visible
from stepahead.cli.report import table_of
from stepahead.errors import StepaheadError

if TYPE_CHECKING:
    from stepahead.filecheck.checked import Checked
    from stepahead.filecheck.finding import Finding
    from stepahead.filecheck.measure import Measurement

FAST_NBYTES = 1_000_000_000  # of a file that is measured without being asked: seconds
NOTHING_FOUND = "nothing wrong in headers and samples"
NOTHING_MEASURED = "nothing wrong in headers, samples and drafts"
TRUNK_SHARE = 0.25  # of the time


@dataclass(frozen=True, slots=True)
class FileReport:
    """Of the file that a command line names, its heads' companion included. fixed: the repaired file, if written;
    left_over: beside it, of runs that were killed; refusal: why it cannot be loaded all the same."""

    findings: "tuple[Finding, ...]"
    measurement: "Measurement | None"
    fixed: Path | None
    left_over: tuple[Path, ...] = ()
    refusal: StepaheadError | None = None

    def as_object(self) -> dict[str, Any]:
        measured = self.measurement
        trials = [] if measured is None else [(one.head, one.contract, one.acceptance) for one in measured.trials]
        return {
            "findings": [finding.as_object() for finding in self.findings],
            "contracts": [dict(zip(("head", "contract", "acceptance"), trial, strict=True)) for trial in trials],
            "fixed": None if self.fixed is None else str(self.fixed),
            "left_over": [str(path) for path in self.left_over],
        }

    def show(self, with_contracts: bool) -> None:
        """On stdout, as a section; the contracts only where they say something or were asked for."""
        console = stdout()
        console.print("file", style="bold")
        measured = self.measurement
        nothing = NOTHING_MEASURED if measured is not None and measured.trials else NOTHING_FOUND
        for label, sentence in finding_rows(self.findings, nothing):
            console.print(visible(f"  {label}: {sentence}"))
        if measured is not None and measured.trials and (measured.findings or with_contracts):
            console.print(_trial_table(measured))


def report_file(load: o.LoadOptions, measure: bool | None, seconds: float, fix: Path | None) -> FileReport:
    """Check the file, measure its heads if asked or if that is quick, write the repaired file if asked.

    Raises what opening raises, and what loading does where measuring was asked for.
    """
    from stepahead.demo import demo_path
    from stepahead.filecheck.checked import Checked
    from stepahead.filecheck.fixed_file import write_fixed
    from stepahead.gguf import GGUFFile
    from stepahead.hub.registry import locate
    from stepahead.splice.output import check_target

    with contextlib.ExitStack() as files:
        path, heads = locate(demo_path() if load.model is None else load.model, load.mtp)
        file = files.enter_context(GGUFFile.open(path))
        companion = None if heads is None else files.enter_context(GGUFFile.open(heads))
        checked = Checked.of(file, companion)
        if fix is not None:
            check_target(fix, [checked.file, checked.heads])
        checked = _measured(checked, load, measure, seconds)
        if fix is None:
            return FileReport(checked.findings, checked.measurement, None)
        view, refusal = checked.repaired(), _refusal(checked)
        if view is None:
            return FileReport(checked.findings, checked.measurement, None, refusal=refusal)
        with Bar("writing, MB") as bar:
            left_over = write_fixed(view, fix, lambda done, total: bar(done // 1_000_000, total // 1_000_000))
        return FileReport(checked.findings, checked.measurement, fix, left_over, refusal)


def _refusal(checked: "Checked") -> StepaheadError | None:
    """What loading the repaired files raises. Of heads without a trunk only the trunk's file can tell."""
    from stepahead.backends.base import Backend
    from stepahead.backends.reference.ops import ReferenceBackend
    from stepahead.models.registry import load_model

    heads = checked.heads_view if checked.has_heads else None
    try:
        if checked.has_trunk:
            load_model(checked.file_view, cast(Backend, ReferenceBackend(int8_activations=True)), heads)
    except StepaheadError as error:
        return error
    return None


def _measured(checked: "Checked", load: o.LoadOptions, measure: bool | None, seconds: float) -> "Checked":
    nbytes = sum(info.nbytes for info in checked.file.tensors.values())
    is_quick = nbytes <= FAST_NBYTES and load.device in ("auto", "cpu") and load.mtp != "off"
    if not (is_quick and checked.has_heads if measure is None else measure):
        return checked
    from stepahead.config import EngineConfig
    from stepahead.opening import make_backend

    backend = make_backend(EngineConfig(threads=load.threads, device=load.device))
    try:
        with Bar("trying the heads") as bar:
            return checked.measured(backend, TRUNK_SHARE * seconds, bar)
    except StepaheadError:
        if measure:
            raise
        return checked  # it cannot be loaded: whoever loads it says why


def finding_rows(findings: "Sequence[Finding]", nothing: str = NOTHING_FOUND) -> list[tuple[str, str]]:
    """(severity, sentence), the worst first; `nothing` if there are none."""
    order = ("fault", "unclear", "note")
    ranked = sorted(findings, key=lambda finding: order.index(finding.severity))
    return [(finding.severity, finding.sentence) for finding in ranked] or [("checked", nothing)]


def _trial_table(measured: "Measurement") -> Any:
    heads = sorted({trial.head for trial in measured.trials})
    table = table_of("drafts right, heads", *(f"head {head + 1}" for head in heads))
    shares = {(trial.contract, trial.head): f"{100 * trial.acceptance:.1f} %" for trial in measured.trials}
    for name in dict.fromkeys(trial.contract for trial in measured.trials):
        table.add_row(name, *(shares.get((name, head), "") for head in heads))
    return table
