"""`stepahead convert`: a checkpoint of the hub to a GGUF file."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stepahead.cli import options as o
from stepahead.cli.console import Bar, stderr, visible
from stepahead.cli.loading import size
from stepahead.errors import ConfigError

if TYPE_CHECKING:
    from stepahead.convert import ConversionReport

FileType = Literal["F32", "F16", "BF16", "Q8_0"]


def convert(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A Step-3.5 or Step-3.7 repository as the hub has it.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The .gguf file to write, or a folder in which it gets a name.")
    ],
    type: Annotated[
        FileType,
        typer.Option("--type", help="Of the matrices; vectors and routers are F32. For others: stepahead quantize."),
    ] = "BF16",
    heads_only: Annotated[
        bool, typer.Option("--heads-only", help="Only the MTP heads and what they share, as a companion file.")
    ] = False,
    no_heads: Annotated[bool, typer.Option("--no-heads", help="Only the trunk.")] = False,
    pre: Annotated[
        str | None,
        typer.Option("--pre", help="The pre-tokenizer's name, where it is not recognised.", show_default=False),
    ] = None,
    split_size: Annotated[
        float | None,
        typer.Option("--split-size", help="Write several files of at most so many GB.", show_default=False),
    ] = None,
    json_output: o.JsonOption = False,
) -> None:
    """Convert a checkpoint of the hub (safetensors) to GGUF, with its MTP heads.

    Reads BF16, F16, F32 and FP8 weights. Memory stays below half a GB, however large the checkpoint. The file appears
    when it is complete. Heads alone need two files of the checkpoint, and only those are opened.

    \b
    Examples:
      stepahead convert Step-3.7-Flash -o step-3.7.gguf
      stepahead convert Step-3.7-Flash -o step-3.7-q8_0.gguf --type Q8_0 --split-size 40
      stepahead convert Step-3.7-Flash -o heads.gguf --heads-only
    """
    from stepahead.convert import convert as run
    from stepahead.hub_folder import check_output

    if heads_only and no_heads:
        raise ConfigError("--heads-only and --no-heads leave nothing: give one of them")
    if split_size is not None and not 0 < split_size < 1e6:
        raise ConfigError(f"--split-size {split_size:g} is no size in GB")
    check_output(output)
    with Bar("converting, MB") as bar:
        report = run(
            checkpoint,
            output,
            type=type,
            part="heads" if heads_only else "trunk" if no_heads else "all",
            pre=pre,
            max_shard_bytes=None if split_size is None else int(split_size * 1e9),
            on_progress=lambda done, total: bar(done // 1_000_000, total // 1_000_000),
        )
    if json_output:
        json.dump(_object(report), sys.stdout)
        sys.stdout.write("\n")
        return
    for line in _lines(report):
        stderr().out(visible(line), highlight=False)


def _object(report: "ConversionReport") -> dict[str, object]:
    paths = ("files", "left_over")
    return {**dataclasses.asdict(report), **{name: [str(path) for path in getattr(report, name)] for name in paths}}


def _lines(report: "ConversionReport") -> list[str]:
    count = f" in {len(report.files)} files" if len(report.files) > 1 else ""
    trunk = f"{report.num_trunk_layers} layers, " if report.has_trunk else "no trunk, "
    heads = f"{report.num_heads} MTP heads" if report.num_heads else "no MTP heads"
    lines = [
        f"{report.files[0]}{count}: {size(report.nbytes)}, {report.type}, {report.num_tensors} tensors, "
        f"{trunk}{heads}; "
        f"{report.seconds:.1f} s, {size(report.nbytes / max(report.seconds, 1e-9))}/s; "
        f"{report.num_shards_opened} of {report.num_shards} shards read"
    ]
    if report.num_vision_skipped:
        lines.append(f"{report.num_vision_skipped} vision tensors were left out: the file is for text")
    if report.fallbacks:
        names = ", ".join(report.fallbacks[:3]) + (" …" if len(report.fallbacks) > 3 else "")
        lines.append(
            f"{len(report.fallbacks)} tensors are F16, their rows are no whole blocks of {report.type}: {names}"
        )
    for path in report.left_over:
        lines.append(f"{path} was left by a run that was killed: delete it, unless one is still running")
    return lines
