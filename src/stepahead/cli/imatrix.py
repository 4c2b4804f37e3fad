"""`stepahead imatrix`: how much each column of each matrix matters, measured on texts."""

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stepahead.cli import options as o
from stepahead.cli.console import Bar, stderr, visible
from stepahead.cli.prompt import read_text
from stepahead.errors import ConfigError

if TYPE_CHECKING:
    from stepahead.gguf import GGUFFile
    from stepahead.quantize.collect import Calibration
    from stepahead.quantize.importance import ImportanceMatrix

CHUNK = 512


def imatrix(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A GGUF file, best of BF16, F16 or Q8_0, " + o.OR_A_NAME)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The .gguf file to write.")],
    texts: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[TEXT]...", help="Text files, UTF-8. Without any: the built-in texts, which are few."),
    ] = None,
    mtp: o.MtpOption = "auto",
    chunk: Annotated[int, typer.Option("--chunk", help="Tokens a chunk; each begins anew.")] = CHUNK,
    max_chunks: Annotated[
        int | None, typer.Option("--max-chunks", help="Run over at most so many.", show_default=False)
    ] = None,
    threads: o.ThreadsOption = None,
    json_output: o.JsonOption = False,
) -> None:
    """Compute an importance matrix, MTP heads included: `stepahead quantize --imatrix` and llama.cpp read it.

    \b
    Examples:
      stepahead imatrix step-q8_0.gguf -o step.imatrix.gguf calibration.txt
      stepahead imatrix step-q8_0.gguf -o step.imatrix.gguf code.txt prose.txt --max-chunks 200
    """
    from stepahead.gguf import GGUFFile
    from stepahead.hub.registry import locate
    from stepahead.hub_folder import check_output
    from stepahead.opening import load_tokenizer
    from stepahead.quantize.collect import collect_importance

    if chunk < 2:
        raise ConfigError(f"--chunk {chunk} is out of range: give at least 2")
    if max_chunks is not None and max_chunks < 1:
        raise ConfigError(f"--max-chunks {max_chunks} is out of range: give at least 1")
    if output.suffix != ".gguf" or output.is_dir():
        raise ConfigError(f"{output}: the name of the file to write must end in .gguf")
    if not output.parent.is_dir():
        raise ConfigError(f"{output}: no such folder {output.parent}; create it first")
    path, linked = locate(model, mtp)
    check_output(output, path, linked)
    with ExitStack() as files:
        file = files.enter_context(GGUFFile.open(path))
        if output.exists() and any(output.samefile(shard) for shard in file.shards):
            raise ConfigError(f"{output}: is the model's file; give another name to write")
        companion = None if linked is None else files.enter_context(GGUFFile.open(linked))
        tokenizer = load_tokenizer(file)
        calibrations = _calibrations(texts, tokenizer.encode)
        heads = companion or _own_heads(file, mtp)
        with Bar("running, chunks") as bar:
            importance = collect_importance(
                file, heads, calibrations, chunk_size=chunk, max_chunks=max_chunks, threads=threads, on_progress=bar
            )
        importance.write(output)
    _show(output, importance, json_output)


def _own_heads(file: "GGUFFile", mtp: str) -> "GGUFFile | None":
    return None if mtp == "off" else file


def _calibrations(paths: list[Path] | None, encode: "Callable[[str], list[int]]") -> "list[Calibration]":
    from stepahead.quantize.check import built_in_texts
    from stepahead.quantize.collect import Calibration

    if paths:
        return [Calibration(path.name, encode(read_text(path))) for path in paths]
    return [Calibration("stepahead.texts", encode(text.text)) for text in built_in_texts()]


def _show(output: Path, importance: "ImportanceMatrix", json_output: bool) -> None:
    unseen = {
        name: int((squares.counts == 0).sum())
        for name, squares in importance.squares.items()
        if (squares.counts == 0).any()
    }
    if json_output:
        json.dump(
            {
                "file": str(output),
                "num_matrices": len(importance.squares),
                "num_chunks": importance.num_chunks,
                "chunk_size": importance.chunk_size,
                "experts_unseen": unseen,
            },
            sys.stdout,
        )
        sys.stdout.write("\n")
        return
    lines = [
        f"{output}: {len(importance.squares)} matrices, {importance.num_chunks} chunks of {importance.chunk_size} "
        "tokens"
    ]
    if unseen:
        lines.append(
            f"{sum(unseen.values())} experts of {len(unseen)} matrices were never chosen, and all of their columns "
            "count the same: give more text"
        )
    for line in lines:
        stderr().out(visible(line), highlight=False)
