"""`stepahead inspect`: what a model file holds and would take, from its headers; no weights are read."""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from stepahead.cli import options as o
from stepahead.cli.console import stdout, visible
from stepahead.cli.file_report import finding_rows
from stepahead.cli.loading import size
from stepahead.cli.memory_report import plan_of, show_plan

if TYPE_CHECKING:
    from stepahead.cli.memory_report import PlanReport
    from stepahead.filecheck.checked import Checked
    from stepahead.gguf import GGUFFile
    from stepahead.model_info import ModelInfo
    from stepahead.models.model import Model

CHUNK_TOKENS = 512


def inspect(
    model: o.ModelArgument = None,
    mtp: o.MtpOption = "auto",
    kv_type: o.KVTypeOption = "f16",
    context_length: Annotated[
        list[str] | None,
        typer.Option(
            "--context-length",
            metavar="TOKENS|auto",
            help="Show the memory of this context; may be given again, the plan is of the first. 'auto': as many "
            "tokens as fit. Default: 4096, 32768 and the model's.",
            show_default=False,
        ),
    ] = None,
    parallel: Annotated[int, typer.Option("--parallel", help="How many contexts the plan is for.")] = 1,
    device: o.DeviceOption = "auto",
    repack: o.RepackOption = "auto",
    draft_vocab: o.DraftVocabOption = "auto",
    draft_type: o.DraftTypeOption = "file",
    memory_gb: o.MemoryOption = None,
    cpu_experts: o.CpuExpertsOption = "auto",
    gpu_layers: o.GpuLayersOption = None,
    json_output: o.JsonOption = False,
) -> None:
    """Show architecture, MTP heads, tensor types, bytes by part, what goes where in memory, what is wrong.

    Faults are found in headers and samples: heads that are missing, few, empty or wrongly converted. What only drafts
    show, `stepahead doctor --measure` finds.

    \b
    Examples:
      stepahead inspect model.gguf
      stepahead inspect trunk.gguf --mtp heads.gguf --kv-type q8_0
      stepahead inspect model.gguf --context-length 16384 --json
      stepahead inspect model.gguf --context-length auto --parallel 4
    """
    from stepahead.filecheck.checked import Checked
    from stepahead.gguf import GGUFFile
    from stepahead.hub.registry import locate
    from stepahead.model_info import model_info
    from stepahead.repack.repacked import find_cache

    path, companion = locate(_demo_path() if model is None else model, mtp)
    lengths = [o.context_length(text) for text in context_length or ()]
    load = o.LoadOptions(
        model, mtp, kv_type, None, next(iter(context_length or ()), None), device, repack, draft_vocab, draft_type,
        memory_gb, cpu_experts, gpu_layers,
    )  # fmt: skip
    with contextlib.ExitStack() as files:
        file = files.enter_context(GGUFFile.open(path))
        heads = None if companion is None else files.enter_context(GGUFFile.open(companion))
        info, checked = model_info(file, heads), Checked.of(file, heads)
        loaded, refusal = None, None
        if not info.is_heads_only:
            loaded, refusal = _try_load(file, heads or (None if mtp == "off" else file))
        cache = find_cache(file)
        memory = {} if loaded is None else _context_memory(loaded, info, kv_type, lengths)
        plan = None if loaded is None else plan_of(file, heads, load, parallel)
        if json_output:
            json.dump(_object(info, loaded, kv_type, memory, cache, checked, plan), sys.stdout)
            sys.stdout.write("\n")
        else:
            _show(info, loaded, kv_type, memory, cache, checked)
            if plan is not None:
                show_plan(plan)
    if refusal is not None:
        raise refusal


def _demo_path() -> Path:
    from stepahead.demo import demo_path

    return Path(demo_path())


def _try_load(file: "GGUFFile", heads: "GGUFFile | None") -> tuple["Model | None", Exception | None]:
    """The model over the mapped bytes, or why it cannot be run: the rest of the file is shown all the same.

    The reference backend decodes a matrix when it is first multiplied with, so this reads headers and vectors.
    """
    from stepahead.backends.base import Backend
    from stepahead.backends.reference.ops import ReferenceBackend
    from stepahead.errors import StepaheadError
    from stepahead.models.registry import load_model

    try:
        return load_model(file, cast(Backend, ReferenceBackend(int8_activations=True)), heads), None
    except StepaheadError as error:
        return None, error


def _context_memory(
    model: "Model", info: "ModelInfo", kv_type: str, asked: list[int | str | None]
) -> dict[int, dict[str, int]]:
    """Context length -> KV group -> bytes, for one sequence."""
    from stepahead.errors import ConfigError
    from stepahead.model_info import kv_bytes

    limit = info.context_length
    lengths = [length for length in asked if isinstance(length, int)] or sorted(
        {min(4096, limit), min(32768, limit), limit}
    )
    for length in lengths:
        if not 1 <= length <= limit:
            raise ConfigError(f"--context-length {length} is out of range: this model has 1 to {limit}")
    widths = {spec.index: spec.num_kv_heads * spec.head_dim for spec in model.layers}
    return {length: kv_bytes(model.kv_specs, widths, length, kv_type, CHUNK_TOKENS) for length in lengths}


def _num_usable(model: "Model | None") -> int:
    return 0 if model is None or model.draft is None else model.draft.num_heads


def _object(
    info: "ModelInfo",
    model: "Model | None",
    kv_type: str,
    memory: dict[int, dict[str, int]],
    cache: Path | None,
    checked: "Checked",
    plan: "PlanReport | None",
) -> dict[str, Any]:
    return {
        **dataclasses.asdict(info),
        "nbytes": info.nbytes,
        "num_heads_usable": _num_usable(model),
        "heads_verdict": info.heads_verdict,
        "is_supported": model is not None,
        "repacked": None if cache is None else str(cache),
        "kv_type": kv_type,
        "context_bytes": {str(length): groups for length, groups in memory.items()},
        "findings": checked.as_objects(),
        "memory": None if plan is None else plan.as_object(),
    }


def _show(
    info: "ModelInfo",
    model: "Model | None",
    kv_type: str,
    memory: dict[int, dict[str, int]],
    cache: Path | None,
    checked: "Checked",
) -> None:
    from rich.table import Table

    console = stdout()
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    for name, value in _facts(info, model):
        grid.add_row(name, visible(value))
    if cache is not None:
        grid.add_row("repacked", visible(str(cache)))
    for label, sentence in finding_rows(checked.findings):
        grid.add_row(label, visible(sentence))
    console.print(grid)
    console.print()
    console.print(_byte_table("part", info.bytes_by_part))
    console.print(_byte_table("type", info.bytes_by_type))
    if memory:
        console.print(_memory_table(kv_type, memory))


def _facts(info: "ModelInfo", model: "Model | None") -> list[tuple[str, str]]:
    window = f", sliding window {info.window}" if info.window else ""
    experts = f"{info.num_experts}, {info.num_experts_used} a token" if info.num_experts else "none (dense)"
    return [
        ("file", info.path),
        ("name", info.name),
        ("architecture", info.arch),
        ("layers", f"{info.num_trunk_layers}, width {info.hidden_size}{window}"),
        ("experts", experts),
        ("vocabulary", str(info.vocab_size)),
        ("context", f"{info.context_length} tokens"),
        ("chat template", "yes" if info.has_chat_template else "no: use run, not chat"),
        (
            "MTP heads",
            f"{info.num_heads_declared} declared, {info.num_heads_found} found"
            + ("" if info.is_heads_only else f", {_num_usable(model)} usable"),
        ),
        ("", info.heads_verdict),
        ("weights", size(info.nbytes)),
    ]


def _byte_table(title: str, counts: dict[str, int]) -> Any:
    from rich.table import Table

    table = Table(title_justify="left")
    table.add_column(title)
    table.add_column("bytes", justify="right")
    table.add_column("share", justify="right")
    total = sum(counts.values()) or 1
    for name, count in counts.items():
        table.add_row(visible(name), size(count), f"{100 * count / total:.1f} %")
    return table


def _memory_table(kv_type: str, memory: dict[int, dict[str, int]]) -> Any:
    from rich.table import Table

    groups = list(next(iter(memory.values())))
    table = Table()
    table.add_column(f"context ({kv_type})", justify="right")
    for group in groups:
        table.add_column(group, justify="right")
    table.add_column("total", justify="right")
    for length, by_group in memory.items():
        table.add_row(str(length), *(size(by_group[group]) for group in groups), size(sum(by_group.values())))
    return table
