"""What `join`, `split` and `graft` say of what they have written."""

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepahead.cli.console import stderr, visible
from stepahead.cli.loading import size

if TYPE_CHECKING:
    from stepahead.splice import SpliceReport

ForceOption = Annotated[
    bool,
    typer.Option("--force", help="Go on although the two files differ in tokens or embeddings; sizes must fit."),
]


def megabytes(bar: Any) -> Any:
    """The bar's callable, fed with bytes."""
    return lambda done, total: bar(done // 1_000_000, total // 1_000_000)


def show(report: "SpliceReport", as_json: bool) -> None:
    """On stdout for programs, on stderr for people."""
    if as_json:
        json.dump(_object(report), sys.stdout)
        sys.stdout.write("\n")
        return
    for line in _lines(report):
        stderr().out(visible(line), highlight=False)


def _object(report: "SpliceReport") -> dict[str, Any]:
    return {
        **dataclasses.asdict(report),
        "files": [{**dataclasses.asdict(file), "path": str(file.path)} for file in report.files],
        "left_over": [str(path) for path in report.left_over],
    }


def _lines(report: "SpliceReport") -> list[str]:
    lines = []
    for file in report.files:
        shared = f", {size(file.shared_bytes)} of it shared with its source" if file.shared_bytes else ""
        lines.append(f"{file.path}: {size(file.nbytes)}{shared}, {file.num_tensors} tensors")
    types = ", ".join(report.bytes_by_type)
    plural = "" if report.num_heads == 1 else "s"
    lines.append(
        f"{report.num_trunk_layers} layers, {report.num_heads} MTP head{plural} of "
        f"{size(sum(report.bytes_by_type.values()))} ({types}); {report.seconds:.1f} s"
    )
    lines += report.notes
    for path in report.left_over:
        lines.append(f"{path} was left by a run that was killed: delete it, unless one is still running")
    return lines
