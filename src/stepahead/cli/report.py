"""What is said about a finished completion: the lines for people and the object for programs."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from stepahead import Completion, SpeculationStats


def acceptance(stats: "SpeculationStats") -> list[float]:
    """Share of the draft tokens at each position that were accepted."""
    pairs = zip(stats.num_accepted_tokens_per_pos, stats.num_draft_tokens_per_pos, strict=True)
    return [accepted / drafted if drafted else 0.0 for accepted, drafted in pairs]


def total_stats(parts: Iterable["SpeculationStats"]) -> "SpeculationStats":
    """Counters of several requests, added."""
    from stepahead import SpeculationStats

    total = SpeculationStats()
    for stats in parts:
        total.num_drafts += stats.num_drafts
        total.num_draft_tokens += stats.num_draft_tokens
        total.num_accepted_tokens += stats.num_accepted_tokens
        missing = len(stats.num_draft_tokens_per_pos) - len(total.num_draft_tokens_per_pos)
        total.num_draft_tokens_per_pos.extend([0] * missing)
        total.num_accepted_tokens_per_pos.extend([0] * missing)
        for position, drafted in enumerate(stats.num_draft_tokens_per_pos):
            total.num_draft_tokens_per_pos[position] += drafted
            total.num_accepted_tokens_per_pos[position] += stats.num_accepted_tokens_per_pos[position]
        for source, drafted in stats.num_draft_tokens_by_source.items():
            for counts, more in (
                (total.num_draft_tokens_by_source, drafted),
                (total.num_accepted_tokens_by_source, stats.num_accepted_tokens_by_source[source]),
            ):
                counts[source] = counts.get(source, 0) + more
    return total


def table_of(*columns: str) -> "Table":
    """An empty table of figures, the first column a name."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if table.columns else "left", no_wrap=True)
    return table


def percentages(shares: list[float]) -> str:
    return " ".join(f"{100 * share:.0f}" for share in shares) + " %" if shares else "–"


def draft_figures(stats: "SpeculationStats") -> str:
    """How much of what was drafted was accepted, by position and by source: "… · copy 24/30, mtp 40/52"."""
    if not stats.num_drafts:
        return "no drafts"
    sources = (
        f"{source or 'draft'} {stats.num_accepted_tokens_by_source[source]}/{drafted}"
        for source, drafted in sorted(stats.num_draft_tokens_by_source.items())
    )
    return f"accepted by position {percentages(acceptance(stats))} · {', '.join(sources)}"


def stats_lines(completion: "Completion") -> tuple[str, str]:
    """How fast and how well drafted; how much and why it ended."""
    timings = completion.timings
    cached = f" ({timings.cached_tokens} cached)" if timings.cached_tokens else ""
    speed = (
        f"{timings.tokens_per_second:.1f} tokens/s",
        f"{timings.tokens_per_step:.2f} tokens/step",
        draft_figures(completion.speculation),
    )
    end = (
        f"{len(completion.token_ids)} tokens after {timings.prompt_tokens}{cached}",
        f"the first in {timings.prompt_seconds:.2f} s",
        f"end: {completion.finish_reason}",
        f"seed {completion.seed}",
    )
    return " · ".join(speed), " · ".join(end)


def completion_object(completion: "Completion") -> dict[str, Any]:
    """The object of `run --json`. Names are stable."""
    timings, stats = completion.timings, completion.speculation
    return {
        "text": completion.text,
        "token_ids": completion.token_ids,
        "prompt_tokens": len(completion.prompt_token_ids),
        "finish_reason": completion.finish_reason,
        "seed": completion.seed,
        "speculation": {
            "num_drafts": stats.num_drafts,
            "num_draft_tokens": stats.num_draft_tokens,
            "num_accepted_tokens": stats.num_accepted_tokens,
            "num_accepted_tokens_per_pos": stats.num_accepted_tokens_per_pos,
            "num_draft_tokens_by_source": stats.num_draft_tokens_by_source,
            "num_accepted_tokens_by_source": stats.num_accepted_tokens_by_source,
        },
        "timings": {
            "prompt_tokens": timings.prompt_tokens,
            "cached_tokens": timings.cached_tokens,
            "prompt_seconds": timings.prompt_seconds,
            "generation_seconds": timings.generation_seconds,
            "num_steps": timings.num_steps,
            "prompt_tokens_per_second": timings.prompt_tokens_per_second,
            "tokens_per_second": timings.tokens_per_second,
            "tokens_per_step": timings.tokens_per_step,
        },
    }
