"""`stepahead graft`: the MTP heads of one model file in place of another one's."""

from pathlib import Path
from typing import Annotated

import typer

from stepahead.cli import options as o
from stepahead.cli.console import Bar
from stepahead.cli.splicing import ForceOption, megabytes, show


def graft(
    source: Annotated[Path, typer.Argument(metavar="FROM", help="A GGUF file whose heads are taken, " + o.OR_A_NAME)],
    target: Annotated[Path, typer.Argument(metavar="INTO", help="A GGUF file whose trunk is taken, " + o.OR_A_NAME)],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .gguf file to write; INTO stays as it is.")],
    force: ForceOption = False,
    json_output: o.JsonOption = False,
) -> None:
    """Move MTP heads from one model file to another, from one quantisation to another, say.

    Checked and copied as by `stepahead join`, which is for files without heads.

    \b
    Examples:
      stepahead graft model-Q8_0.gguf model-Q4_K_S.gguf -o model-Q4_K_S-q8-heads.gguf
      stepahead graft heads.gguf one-head.gguf -o three-heads.gguf --json
    """
    from stepahead.hub.registry import locate, locate_heads
    from stepahead.splice import graft as run

    other, (own, _) = locate_heads(source), locate(target, "off")
    with Bar("grafting, MB") as bar:
        report = run(other, own, output, force=force, on_progress=megabytes(bar))
    show(report, json_output)
