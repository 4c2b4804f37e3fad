"""`stepahead pull`: models from a hub, with their heads; and folders that carry them to machines without a network."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepahead.cli import options as o
from stepahead.cli.console import stderr, stdout, visible, waiting
from stepahead.cli.loading import size
from stepahead.cli.transfer_bar import TransferBar
from stepahead.errors import ConfigError

if TYPE_CHECKING:
    from stepahead.hub.offers import Offer
    from stepahead.hub.pull import Plan
    from stepahead.hub.reference import Reference
    from stepahead.hub.registry import PulledModel
    from stepahead.hub.remote_repo import RemoteRepo

CONNECTIONS = 8


def pull(
    reference: Annotated[
        str | None,
        typer.Argument(
            metavar="REPO[:QUANT|FILE]",
            help="A repository of the hub, and of it a quantisation or a file. Without one: what there is.",
            show_default=False,
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Write a folder for a machine without a network instead.", show_default=False),
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Install a folder that --to wrote.", show_default=False)
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="What it is called from now on. Default: REPO:QUANT.", show_default=False),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="A branch, tag or commit of the repository.", show_default="main")
    ] = None,
    heads: Annotated[
        bool, typer.Option("--heads/--no-heads", help="Look for MTP heads where the file has none, and fetch them.")
    ] = True,
    heads_file: Annotated[
        str | None,
        typer.Option(
            "--heads-file",
            metavar="FILE",
            help="The file of heads to fetch: one of REPO, or OWNER/NAME:FILE. Default: the one that belongs to it.",
            show_default=False,
        ),
    ] = None,
    connections: Annotated[int, typer.Option("--connections", help="Requests at once.")] = CONNECTIONS,
    json_output: o.JsonOption = False,
) -> None:
    """Download a model with its MTP heads, or list what a repository has. Run again, an interrupted pull goes on.

    Every file is verified. Files go to the hub's own cache (HF_HOME), so other programs share them; HF_ENDPOINT names a
    mirror, HF_TOKEN opens gated repositories.

    \b
    Examples:
      stepahead pull stepfun-ai/Step-3.7-Flash-GGUF
      stepahead pull stepfun-ai/Step-3.7-Flash-GGUF:IQ4_XS
      stepahead pull unsloth/Step-3.7-Flash-GGUF:UD-Q4_K_XL --name step
      stepahead pull stepfun-ai/Step-3.7-Flash-GGUF:Q4_K_S --to usb-stick
      stepahead pull --from usb-stick
    """
    if (reference is None) == (source is None):
        raise ConfigError("give one of REPO and --from FOLDER; `stepahead pull --help` has examples")
    if source is not None:
        _install(source, to, name, json_output)
        return
    assert reference is not None
    from stepahead.hub.faults import demand_library, is_offline
    from stepahead.hub.pull import plan, pulled_offline
    from stepahead.hub.reference import Reference

    demand_library()
    wanted = Reference.parse(reference)
    if wanted.choice is None:
        _list(wanted, revision, json_output)
        return
    if heads_file is not None and not heads:
        raise ConfigError("--heads-file names heads and --no-heads wants none: give one of them")
    is_here = pulled_offline(wanted, revision) if is_offline() and to is None else None
    if is_here is not None:
        _conclude(is_here, None, json_output)
        return
    with waiting(f"asking for {visible(wanted.repo)}"):
        planned = plan(wanted, revision, name, heads, heads_file)
    _fetch(planned, connections, to, json_output)


def _fetch(planned: "Plan", connections: int, to: Path | None, json_output: bool) -> None:
    from stepahead.hub import registry
    from stepahead.hub.bundle import write_bundle
    from stepahead.hub.pull import fetch

    if not json_output:
        lines = [f"{planned.name}: {size(planned.nbytes)} · {planned.heads.verdict}", planned.note]
        for line in filter(None, lines):
            stderr().out(visible(line), style="dim", highlight=False)
    before = registry.find(planned.name) if to is None else None
    with TransferBar(planned.name) as bar:
        model = fetch(planned, connections, bar) if to is None else write_bundle(planned, to, connections, bar)
    left = () if before is None else registry.unused(before)
    if before is not None and left:
        nbytes = size(sum(file.nbytes for file in left))
        stderr().out(
            visible(f"{nbytes} of commit {before.revision[:8]} stay in the hub's cache, where no name here uses them"),
            style="dim",
            highlight=False,
        )
    _conclude(model, to, json_output)


def _install(source: Path, to: Path | None, name: str | None, json_output: bool) -> None:
    from stepahead.hub.bundle import install
    from stepahead.hub.faults import demand_library

    demand_library()
    if to is not None:
        raise ConfigError("--from installs what --to wrote: give one of them")
    if not source.is_dir():
        raise ConfigError(f"--from {source}: no such folder")
    with TransferBar(str(source)) as bar:
        model = install(source, bar, name)
    _conclude(model, None, json_output)


def _conclude(model: "PulledModel", to: Path | None, json_output: bool) -> None:
    if json_output:
        json.dump(model_object(model), sys.stdout)
        sys.stdout.write("\n")
        return
    console = stdout()
    if to is not None:
        console.out(visible(f"{to}: {size(model.nbytes)}; there: stepahead pull --from {to.name}"))
        return
    console.out(visible(f"{model.name}: {size(model.nbytes)} · {model.verdict}"))
    console.out(visible(f"stepahead run {model.name}"), style="bold")


def model_object(model: "PulledModel") -> dict[str, Any]:
    """The object of --json. Names are stable."""
    import dataclasses

    from stepahead.hub.registry import last_used

    return {
        **dataclasses.asdict(model),
        "path": str(model.path),
        "heads_path": None if model.heads_path is None else str(model.heads_path),
        "nbytes": model.nbytes,
        "is_here": model.is_here,
        "last_used": last_used(model),
    }


def _list(reference: "Reference", revision: str | None, json_output: bool) -> None:
    from stepahead.hub.offers import offers
    from stepahead.hub.remote_repo import open_repo
    from stepahead.machine import total_memory

    with waiting(f"reading the headers of {visible(reference.repo)}"):
        repo = open_repo(reference.repo, revision)
        found = offers(repo, total_memory(), open_repo=open_repo)
    if not found:
        raise ConfigError(f"{repo.name}: has no GGUF files; its quantisations may be in {repo.name}-GGUF or by others")
    if json_output:
        json.dump({"repo": repo.name, "revision": repo.revision, "offers": [_offer(one) for one in found]}, sys.stdout)
        sys.stdout.write("\n")
    else:
        _show(repo, found)


def _offer(offer: "Offer") -> dict[str, Any]:
    return {
        "label": offer.model.label,
        "files": [file.path for file in offer.model.files],
        "num_missing": offer.model.num_missing,
        "nbytes": offer.model.nbytes,
        "num_heads": offer.num_heads,
        "is_heads_only": offer.is_heads_only,
        "fit": offer.fit,
        "fit_by": offer.need.rule,
        "needed_bytes": offer.need.nbytes,
        "is_best": offer.is_best,
        "fault": offer.fault,
    }


def _show(repo: "RemoteRepo", found: tuple["Offer", ...]) -> None:
    from rich.table import Table

    table = Table(title_justify="left")
    for title in ("", "quantisation", "size", "files", "MTP heads", "needs", "fits in memory"):
        table.add_column(title, justify="right" if title in ("size", "files", "needs") else "left")
    for offer in found:
        model = offer.model
        style = "bold" if offer.is_best else "dim" if offer.is_heads_only else None
        count = f"{len(model.files)}" + (f" of {len(model.files) + model.num_missing}" if model.num_missing else "")
        mark = "→" if offer.is_best else ""
        fits = ("", "") if offer.is_heads_only else (size(offer.need.nbytes), offer.fit)
        # A file of heads is chosen by its name (--heads-file).
        called = model.files[0].name if offer.is_heads_only else model.label
        cells = (visible(called), size(model.nbytes), count, visible(_heads(offer)), *fits)
        table.add_row(mark, *cells, style=style)
    console = stdout()
    console.print(table)
    best = next((offer for offer in found if offer.is_best), None)
    if best is not None:
        console.out(visible(f"stepahead pull {repo.name}:{best.model.label}"), style="bold")


def _heads(offer: "Offer") -> str:
    if offer.facts is None:
        return f"not known: {offer.fault}"[:80]
    if offer.is_heads_only:
        return f"{offer.facts.num_heads}, and nothing else"
    return str(offer.facts.num_heads) if offer.facts.num_heads else "none in it"
