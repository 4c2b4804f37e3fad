"""`stepahead quantize`: a model file in smaller types."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepahead.cli import options as o
from stepahead.cli.console import Bar, stderr, stdout, visible
from stepahead.cli.loading import size
from stepahead.errors import ConfigError

if TYPE_CHECKING:
    from stepahead.quantize.check import CheckReport, CheckText, Side
    from stepahead.quantize.plan import Plan, Request
    from stepahead.quantize.quantization import QuantizationReport, TensorReport

CHECK_PANEL = "Check"
TYPES_PANEL = "Types of single tensors"
CHECK_TOKENS = 4096  # of each text


def quantize(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A GGUF file, best of BF16, F16 or F32, " + o.OR_A_NAME)
    ],
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="The .gguf file to write, or a folder in which it gets a name.")
    ],
    type: Annotated[
        str, typer.Argument(metavar="TYPE", help="Q4_K_M, Q8_0, IQ4_XS, MXFP4 …; a wrong one lists all.")
    ],
    tensor: Annotated[
        list[str] | None,
        typer.Option(
            "--tensor",
            help="PATTERN=TYPE, such as 'ffn_down_exps=Q6_K': matrices in whose names the regular expression is found; "
            "may be given again, the last that matches wins.",
            rich_help_panel=TYPES_PANEL,
            show_default=False,
        ),
    ] = None,
    heads_type: Annotated[
        str | None,
        typer.Option(
            "--heads-type",
            help="Type of the MTP heads' matrices. Default: the mix's; eh_proj at least Q8_0.",
            rich_help_panel=TYPES_PANEL,
            show_default=False,
        ),
    ] = None,
    pure: Annotated[
        bool, typer.Option("--pure", help="Every matrix in the mix's own type.", rich_help_panel=TYPES_PANEL)
    ] = False,
    imatrix: Annotated[
        Path | None,
        typer.Option("--imatrix", help="An importance matrix; `stepahead imatrix` makes one.", show_default=False),
    ] = None,
    allow_requantize: Annotated[
        bool, typer.Option("--allow-requantize", help="IN may be quantised already: it loses twice.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print types and sizes; write nothing.")] = False,
    split_size: Annotated[
        float | None,
        typer.Option("--split-size", help="Write several files of at most so many GB.", show_default=False),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Run IN and OUT on texts: perplexity, divergence, drafts accepted.",
            rich_help_panel=CHECK_PANEL,
        ),
    ] = False,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            "--text", help="Check on this file instead of the built-in texts; may be given again.",
            rich_help_panel=CHECK_PANEL, show_default=False,
        ),
    ] = None,
    threads: o.ThreadsOption = None,
    json_output: o.JsonOption = False,
) -> None:  # fmt: skip
    """Quantise a GGUF file, heads included: smaller types for its matrices, chosen tensor by tensor.

    Memory stays below half a GB, however large the model. The file appears when it is complete.

    \b
    Examples:
      stepahead quantize step-bf16.gguf step-q4_k_m.gguf Q4_K_M
      stepahead quantize step-bf16.gguf . IQ4_XS --imatrix step.imatrix.gguf --check
      stepahead quantize step-bf16.gguf out.gguf Q4_K_M --tensor 'ffn_down_exps=Q6_K' --heads-type Q8_0 --dry-run
    """
    from stepahead.gguf import GGUFFile
    from stepahead.hub.registry import locate
    from stepahead.hub_folder import check_output
    from stepahead.quantize.plan import make_plan
    from stepahead.quantize.quantization import quantize_file

    if split_size is not None and not 0 < split_size < 1e6:
        raise ConfigError(f"--split-size {split_size:g} is no size in GB")
    if text and not check:
        raise ConfigError("--text says what --check runs on: give --check, too")
    if check and dry_run:
        raise ConfigError("--dry-run writes nothing that --check could run: give one of them")
    path, heads = locate(source, "auto")
    if not dry_run:
        check_output(output, path, imatrix)
    texts = _texts(text) if check else []
    request = _request(type, tensor or [], heads_type, pure, imatrix, allow_requantize)
    with GGUFFile.open(path) as file:
        plan = make_plan(file, request)
        if dry_run:
            _show_plan(plan, json_output)
            return
        with Bar("quantising, MB") as bar:
            report = quantize_file(
                plan,
                output,
                threads=threads,
                max_shard_bytes=None if split_size is None else int(split_size * 1e9),
                on_progress=lambda done, total: bar(done // 1_000_000, total // 1_000_000),
            )
        checked = _check(path, report.files[0], heads, texts, threads) if check else None
        _show(report, checked, json_output)


def _request(
    type: str, tensor: list[str], heads_type: str | None, pure: bool, imatrix: Path | None, allow_requantize: bool
) -> "Request":
    from stepahead.quantize.importance import ImportanceMatrix
    from stepahead.quantize.mix import find_mix
    from stepahead.quantize.override import Override, parse_type
    from stepahead.quantize.plan import Request

    return Request(
        mix=find_mix(type),
        overrides=tuple(Override.parse(text) for text in tensor),
        heads_type=None if heads_type is None else parse_type(heads_type),
        is_pure=pure,
        allow_requantize=allow_requantize,
        importance=None if imatrix is None else ImportanceMatrix.read(imatrix),
    )


def _texts(paths: list[Path] | None) -> "list[CheckText]":
    from stepahead.cli.prompt import read_text
    from stepahead.quantize.check import CheckText, built_in_texts

    return [CheckText(text, text) for text in map(read_text, paths)] if paths else built_in_texts()


def _check(old: Path, new: Path, heads: Path | None, texts: "list[CheckText]", threads: int | None) -> "CheckReport":
    """Both with the heads that were pulled with the old one, if it has none itself."""
    from stepahead import LLM
    from stepahead.quantize.check import compare

    def opened(path: Path) -> LLM:
        return LLM(path, mtp=heads or "auto", threads=threads, max_num_seqs=1, repack="never", draft_vocab="full")

    with opened(old) as before, opened(new) as after, Bar("checking, texts") as bar:
        return compare(before, after, texts, CHECK_TOKENS, bar)


def _show_plan(plan: "Plan", json_output: bool) -> None:
    from stepahead.quantize.quantization import TensorReport

    if json_output:
        tensors = [_tensor_object(TensorReport(tensor, None)) for tensor in plan.tensors]
        _dump({"type": plan.request.mix.name, "nbytes": plan.nbytes, "tensors": tensors})
        return
    _show_table([TensorReport(tensor, None) for tensor in plan.tensors])
    old = sum(tensor.info.nbytes for tensor in plan.tensors)
    stdout().out(f"{plan.request.mix.name}: {size(old)} -> {size(plan.nbytes)}; nothing was written")
    _tell(_notes(plan))


def _show(report: "QuantizationReport", checked: "CheckReport | None", json_output: bool) -> None:
    if json_output:
        _dump(_object(report, checked))
        return
    _show_table(report.tensors)
    if checked is not None:
        _show_check(checked)
    old = sum(tensor.planned.info.nbytes for tensor in report.tensors)
    count = f" in {len(report.files)} files" if len(report.files) > 1 else ""
    lines = [
        f"{report.files[0]}{count}: {size(old)} -> {size(report.nbytes)}, {report.plan.request.mix.name}; "
        f"{report.seconds:.1f} s, {size(old / max(report.seconds, 1e-9))}/s"
    ]
    if report.unweighted:
        lines.append(f"{len(report.unweighted)} matrices are not in the importance matrix: {_some(report.unweighted)}")
    lines += [
        f"{path} was left by a run that was killed: delete it, unless one is still running" for path in report.left_over
    ]
    _tell([*_notes(report.plan), *lines])


def _notes(plan: "Plan") -> list[str]:
    lines = []
    if plan.fallbacks:
        changes = sorted({f"{tensor.wanted.name} -> {tensor.type.name}" for tensor in plan.fallbacks})
        names = _some([tensor.info.name for tensor in plan.fallbacks])
        lines.append(
            f"{len(plan.fallbacks)} matrices have rows that are no whole blocks, {', '.join(changes)}: {names}"
        )
    kept = [tensor for tensor in plan.tensors if tensor.reason == "smaller already"]
    if kept:
        lines.append(
            f"{len(kept)} matrices stay as they are, they are as small already: {_some([t.info.name for t in kept])}"
        )
    return lines


def _some(names: "list[str] | tuple[str, ...]") -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def _tell(lines: list[str]) -> None:
    for line in lines:
        stderr().out(visible(line), highlight=False)


def _show_table(tensors: "list[TensorReport] | tuple[TensorReport, ...]") -> None:
    from rich.table import Table

    changed = [tensor for tensor in tensors if tensor.planned.reason != "kept"]
    has_errors = any(tensor.sums is not None for tensor in tensors)
    has_weights = any(tensor.planned.squares is not None for tensor in tensors)
    table = Table()
    table.add_column("matrix")
    for title in ("from", "to"):
        table.add_column(title)
    table.add_column("bytes", justify="right")
    if has_errors:
        table.add_column("RMSE", justify="right")
        table.add_column("of its size", justify="right")
    if has_errors and has_weights:
        table.add_column("weighted", justify="right")
    for tensor in changed:
        table.add_row(*_cells(tensor, has_errors, has_weights))
    stdout().print(table)
    stdout().out(f"{len(tensors) - len(changed)} vectors and routers stay as they are", highlight=False)


def _cells(tensor: "TensorReport", has_errors: bool, has_weights: bool) -> list[str]:
    planned, sums = tensor.planned, tensor.sums
    cells = [visible(planned.info.name), planned.info.type.name, planned.type.name, size(planned.nbytes)]
    if has_errors:
        is_measured = sums is not None and sums.num_elements
        cells += [f"{sums.rmse:.3g}", f"{100 * sums.relative:.2f} %"] if sums is not None and is_measured else ["", ""]
    if has_errors and has_weights:
        weighted = None if sums is None else sums.relative_weighted
        cells.append("" if weighted is None else f"{100 * weighted:.2f} %")
    return cells


def _show_check(checked: "CheckReport") -> None:
    from rich.table import Table

    table = Table()
    table.add_column(f"on {checked.num_tokens} tokens")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    sides = (checked.old, checked.new)
    table.add_row("perplexity", *(f"{checked.perplexity(side):.4f}" for side in sides))
    table.add_row("best token right", *(f"{100 * side.num_correct / checked.num_tokens:.1f} %" for side in sides))
    table.add_row("best token the same", "", f"{100 * checked.agreement:.1f} %")
    table.add_row("mean KL divergence, nats", "", f"{checked.mean_divergence:.5f}")
    if checked.old.acceptance:
        table.add_row("drafts accepted", *(_percents(side) for side in sides))
        table.add_row("tokens a step", *(f"{side.tokens_per_step:.2f}" for side in sides))
    stdout().print(table)


def _percents(side: "Side") -> str:
    return " ".join(f"{100 * share:.1f}" for share in side.acceptance) + " %"


def _object(report: "QuantizationReport", checked: "CheckReport | None") -> dict[str, Any]:
    return {
        "files": [str(path) for path in report.files],
        "type": report.plan.request.mix.name,
        "nbytes": report.nbytes,
        "seconds": report.seconds,
        "tensors": [_tensor_object(tensor) for tensor in report.tensors],
        "not_in_imatrix": list(report.unweighted),
        "left_over": [str(path) for path in report.left_over],
        "check": None if checked is None else _check_object(checked),
    }


def _tensor_object(tensor: "TensorReport") -> dict[str, Any]:
    planned, sums = tensor.planned, tensor.sums
    made: dict[str, Any] = {
        "name": planned.info.name,
        "shape": list(planned.info.shape),
        "from": planned.info.type.name,
        "to": planned.type.name,
        "reason": planned.reason,
        "nbytes": planned.nbytes,
    }
    if sums is not None and sums.num_elements:
        made |= {"rmse": sums.rmse, "relative": sums.relative, "relative_weighted": sums.relative_weighted}
    return made


def _check_object(checked: "CheckReport") -> dict[str, Any]:
    def side(figures: "Side") -> dict[str, Any]:
        return {
            "perplexity": checked.perplexity(figures),
            "num_correct": figures.num_correct,
            "acceptance": figures.acceptance,
            "tokens_per_step": figures.tokens_per_step,
        }

    return {
        "num_tokens": checked.num_tokens,
        "before": side(checked.old),
        "after": side(checked.new),
        "mean_kl_divergence": checked.mean_divergence,
        "agreement": checked.agreement,
    }


def _dump(value: dict[str, Any]) -> None:
    json.dump(value, sys.stdout)
    sys.stdout.write("\n")
