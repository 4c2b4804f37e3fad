"""`stepahead join`: MTP heads into a model file that has none."""

from pathlib import Path
from typing import Annotated

import typer

from stepahead.cli import options as o
from stepahead.cli.console import Bar
from stepahead.cli.splicing import ForceOption, megabytes, show


def join(
    trunk: Annotated[Path, typer.Argument(metavar="TRUNK", help="A GGUF file without heads, or its first shard.")],
    heads: Annotated[Path, typer.Argument(metavar="HEADS", help="A companion file of heads, or a model with them.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .gguf file to write.")],
    force: ForceOption = False,
    json_output: o.JsonOption = False,
) -> None:
    """Put MTP heads into a model file: one file instead of two.

    Sizes, numbering, vocabulary and embeddings are compared before a byte is written. Weights are copied as they are,
    or shared with TRUNK where the file system can. The file appears when it is complete.

    \b
    Examples:
      stepahead join step-3.7-Q4_K_S.gguf Step3.7-flash-mtp-Q8_0.gguf -o step-3.7-Q4_K_S-mtp.gguf
      stepahead join trunk-00001-of-00003.gguf heads.gguf -o full.gguf --json
    """
    from stepahead.splice import join as run

    with Bar("joining, MB") as bar:
        report = run(trunk, heads, output, force=force, on_progress=megabytes(bar))
    show(report, json_output)
