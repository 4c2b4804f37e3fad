"""A memory plan for people and programs: what goes where, what is free, and what to do where it does not fit."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepahead.cli.console import stdout, visible
from stepahead.cli.loading import size
from stepahead.cli.options import LoadOptions, context_length
from stepahead.cli.report import table_of
from stepahead.errors import CapacityError

if TYPE_CHECKING:
    from stepahead.config import EngineConfig
    from stepahead.gguf import GGUFFile
    from stepahead.memory.plan import MemoryPlan

KINDS = {"file": "pages of files", "memory": "at once", "touched": "as it is used"}


@dataclass(frozen=True, slots=True)
class PlanReport:
    """A plan beside the memory that there is; free None: unknown, refusal None: it runs."""

    plan: "MemoryPlan"
    free: int | None
    warnings: tuple[str, ...]
    refusal: str | None

    def as_object(self) -> dict[str, Any]:
        return {
            **self.plan.as_object(),
            "free_bytes": self.free,
            "choices": self.plan.choices,
            "warnings": self.warnings,
            "refusal": self.refusal,
        }


def plan_of(file: "GGUFFile", heads: "GGUFFile | None", options: LoadOptions, max_num_seqs: int) -> PlanReport:
    """Of a model that can be run, with these flags. Raises ConfigError for flags that are wrong."""
    from stepahead.memory.fitting import fit
    from stepahead.memory.planner import Planner
    from stepahead.opening import make_backend, memory_limit

    asked = _settings(options, max_num_seqs)
    backend = make_backend(asked)
    planner, free = Planner(file, heads, backend), memory_limit(asked, backend)
    try:
        fitted = fit(planner, asked, free)
    except CapacityError as error:
        default = replace(asked, context_length=None) if asked.context_length == "auto" else asked
        return PlanReport(planner.plan(default, max_cache_nbytes=0), free, (), str(error))
    return PlanReport(fitted.plan, free, fitted.warnings, None)


def fitted_context(model: Path, options: LoadOptions, max_num_seqs: int) -> int:
    """The context that a server with these flags has."""
    from stepahead.gguf import GGUFFile
    from stepahead.hub.registry import locate
    from stepahead.model_info import model_info

    asked = _settings(options, max_num_seqs)
    path, companion = locate(model, options.mtp)
    with GGUFFile.open(path) as file:
        if asked.context_length != "auto":
            return asked.resolve(model_info(file).context_length).context_length
        heads = None if companion is None else GGUFFile.open(companion)
        return plan_of(file, heads, options, max_num_seqs).plan.context_length


def show_plan(report: PlanReport) -> None:
    plan = report.plan
    many = "one context" if plan.max_num_seqs == 1 else f"{plan.max_num_seqs} contexts"
    table = table_of(f"memory of {many} of {plan.context_length} ({plan.kv_type})", "bytes", "taken")
    for (name, kind), nbytes in plan.by_name().items():
        table.add_row(visible(name), size(nbytes), KINDS[kind])
    table.add_section()
    table.add_row("pages of files", size(plan.file_nbytes), "")
    table.add_row("all else, at most", size(plan.anonymous_nbytes), "")
    if plan.host_experts:
        table.add_row(f"experts on the host, layers: {len(plan.host_experts)}", size(plan.host_nbytes), KINDS["file"])
    table.add_row("free", "unknown" if report.free is None else size(report.free), "")
    console = stdout()
    console.print(table)
    for line in (*plan.choices, *report.warnings):
        console.print(visible(line))
    if report.refusal is not None:
        console.print(visible(f"does not fit: {report.refusal}"))


def _settings(options: LoadOptions, max_num_seqs: int) -> "EngineConfig":
    from stepahead.config import EngineConfig

    text = options.draft_vocab
    return EngineConfig(
        kv_type=options.kv_type,
        threads=options.threads,
        context_length=context_length(options.context_length),
        device=options.device,
        max_num_seqs=max_num_seqs,
        mtp=options.mtp,
        repack=options.repack,
        draft_vocab=int(text) if text.isdecimal() else text,
        draft_type=options.draft_type,
        memory_gb=options.memory_gb,
        **options.experts,
    )
