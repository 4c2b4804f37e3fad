"""`stepahead rm`: a pulled model's name, and its files where no other name uses them."""

import sys
from typing import Annotated

import typer

from stepahead.cli.console import stdout, visible
from stepahead.cli.loading import size
from stepahead.errors import ConfigError


def rm(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `stepahead list` shows it.", show_default=False)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a pulled model from this machine, with its heads and what was repacked of it.

    Files that another name uses stay, and so do those in the hub's cache that were not pulled here.

    \b
    Examples:
      stepahead rm stepfun-ai/Step-3.7-Flash-GGUF:IQ4_XS
      stepahead rm step --yes
    """
    from stepahead.hub import registry
    from stepahead.hub.faults import demand_library
    from stepahead.hub.removal import plan_removal, remove

    demand_library()
    planned = plan_removal(registry.demand(name))
    kept = f"; other names use {_files(len(planned.kept))}, which stay" if planned.kept else ""
    what = visible(f"{planned.model.name}: {_files(len(planned.files))}, {size(planned.nbytes)}{kept}")
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError(f"{what}: nobody is there to be asked; give --yes")
        if not typer.confirm(f"remove {what}?"):
            return
    remove(planned)
    stdout().out(f"removed {what}", highlight=False)


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"
