"""`stepahead join`: MTP heads into a model file that has none."""

from pathlib import Path
from typing import Annotated

import typer

from stepahead.cli import options as o
from stepahead.cli.console import Bar
from stepahead.cli.splicing import ForceOption, megabytes, show
from stepahead.errors import ConfigError


def join(
    trunk: Annotated[
        Path, typer.Argument(metavar="TRUNK", help="A GGUF file without heads, its first shard, " + o.OR_A_NAME)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .gguf file to write.")],
    heads: Annotated[
        Path | None,
        typer.Argument(
            metavar="HEADS",
            help="A companion file of heads, a model with them, or a name. Without it: those pulled with TRUNK.",
            show_default=False,
        ),
    ] = None,
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
      stepahead join stepfun-ai/Step-3.7-Flash-GGUF:Q4_K_S -o step-3.7-Q4_K_S-mtp.gguf
    """
    from stepahead.hub.registry import locate, locate_heads
    from stepahead.splice import join as run

    own, linked = locate(trunk, "auto" if heads is None else "off")
    other = linked if heads is None else locate_heads(heads)
    if other is None:
        raise ConfigError(f"{trunk}: no heads were pulled with it: give HEADS, a file or a name that has them")
    with Bar("joining, MB") as bar:
        report = run(own, other, output, force=force, on_progress=megabytes(bar))
    show(report, json_output)
