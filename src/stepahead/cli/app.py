"""The typer application: its commands, in the order of --help."""

import functools
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from stepahead import __version__
from stepahead.cli.batch import batch
from stepahead.cli.bench import bench
from stepahead.cli.chat import chat
from stepahead.cli.convert import convert
from stepahead.cli.doctor import doctor
from stepahead.cli.graft import graft
from stepahead.cli.imatrix import imatrix
from stepahead.cli.inspect import inspect
from stepahead.cli.join import join
from stepahead.cli.list import list
from stepahead.cli.perplexity import perplexity
from stepahead.cli.pull import pull
from stepahead.cli.quantize import quantize
from stepahead.cli.rm import rm
from stepahead.cli.run import run
from stepahead.cli.serve import serve
from stepahead.cli.split import split
from stepahead.cli.trace import trace

COMMANDS = (
    run,
    chat,
    serve,
    batch,
    pull,
    list,
    rm,
    inspect,
    doctor,
    convert,
    quantize,
    imatrix,
    join,
    split,
    graft,
    perplexity,
    bench,
    trace,
)


class OutputClosedError(Exception):
    """Whoever read our output has gone."""


app = typer.Typer(name="stepahead", add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"stepahead {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Run local language models that draft ahead of themselves: same text, fewer passes.

    \b
    Examples:
      stepahead run
      stepahead run model.gguf -p "def quicksort(xs):"
      stepahead inspect model.gguf

    Environment: STEPAHEAD_ISA (scalar, avx2, avx512, neon, neon_dotprod), STEPAHEAD_THREADS, STEPAHEAD_LOG (debug,
    info, warning, error), STEPAHEAD_CACHE (a folder). NO_COLOR is respected.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _shielded(run: Callable[..., None]) -> Callable[..., None]:
    """`run`, its BrokenPipeError under a name that typer does not take for its own affair."""

    @functools.wraps(run)
    def shielded(*args: Any, **kwargs: Any) -> None:
        try:
            run(*args, **kwargs)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise OutputClosedError from error

    return shielded


for _command in COMMANDS:
    app.command(no_args_is_help=False)(_shielded(_command))


def command() -> Any:
    """The application as a command object: parse, help, and what the reference page is made of."""
    return typer.main.get_command(app)
