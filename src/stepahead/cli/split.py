"""`stepahead split`: a model file into its trunk and its MTP heads."""

from pathlib import Path
from typing import Annotated

import typer

from stepahead.cli import options as o
from stepahead.cli.console import Bar
from stepahead.cli.splicing import megabytes, show


def split(
    full: Annotated[
        Path, typer.Argument(metavar="FULL", help="A GGUF file with heads, its first shard, " + o.OR_A_NAME)
    ],
    trunk: Annotated[
        Path | None, typer.Option("--trunk", help="Write the model without heads.", show_default=False)
    ] = None,
    heads: Annotated[
        Path | None, typer.Option("--heads", help="Write the heads as a companion file.", show_default=False)
    ] = None,
    json_output: o.JsonOption = False,
) -> None:
    """Take the MTP heads out of a model file: a trunk, a companion file with the heads, or both.

    Run the two with --mtp HEADS (llama.cpp: --spec-draft-model HEADS); `stepahead join` makes FULL of them again.
    Embeddings and output are in both files.

    \b
    Examples:
      stepahead split full.gguf --trunk trunk.gguf --heads heads.gguf
      stepahead split full.gguf --heads heads.gguf
    """
    from stepahead.hub.registry import locate
    from stepahead.splice import split as run

    path, _ = locate(full, "off")
    with Bar("splitting, MB") as bar:
        report = run(path, trunk, heads, on_progress=megabytes(bar))
    show(report, json_output)
