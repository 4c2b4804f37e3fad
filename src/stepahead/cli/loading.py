"""Opens the model that a command line names, and says in one line what was opened."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepahead.cli.console import Bar, stderr, visible, waiting
from stepahead.cli.options import LoadOptions, context_length

if TYPE_CHECKING:
    from stepahead import LLM

UNITS = ("B", "kB", "MB", "GB", "TB")


def open_llm(options: LoadOptions, max_num_seqs: int = 1, **settings: Any) -> "LLM":
    """The loaded model; the demo model if none is named. settings: LLM's own. Raises what LLM raises."""
    from stepahead import LLM

    name = "the demo model" if options.model is None else options.model.name
    with ExitStack() as spinner, Bar("weights, MB") as bar:
        spinner.enter_context(waiting(f"loading {visible(name)}"))

        def on_repack(_: Path, done: int, total: int) -> None:
            spinner.close()  # what is announced now needs the line
            if done:
                bar(done // 1_000_000, total // 1_000_000)

        llm = (LLM.demo if options.model is None else partial(LLM, options.model))(
            mtp=options.mtp,
            kv_type=options.kv_type,
            threads=options.threads,
            context_length=context_length(options.context_length),
            device=options.device,
            max_num_seqs=max_num_seqs,
            repack=options.repack,
            draft_vocab=int(options.draft_vocab) if options.draft_vocab.isdecimal() else options.draft_vocab,
            draft_type=options.draft_type,
            memory_gb=options.memory_gb,
            **options.experts,
            on_repack=on_repack,
            **settings,
        )
    for choice in llm.memory.choices if options.context_length == "auto" else ():
        stderr().out(visible(choice), style="dim", highlight=False)
    return llm


def summary(llm: "LLM") -> str:
    """What is running, on what: one line, so that nobody has to guess whether the heads are on."""
    info, config = llm.info, llm.config
    heads = "no MTP heads" if llm.model.draft is None else f"{llm.model.draft.num_heads} MTP heads"
    return visible(
        f"{info.name} · {info.arch} · {info.num_trunk_layers} layers, {heads} · {size(info.nbytes)} · "
        f"context {config.context_length} ({config.kv_type}) · {where(llm)}"
        + "".join(f" · {repacked.describe()}" for repacked in llm.repacked)
    )


def where(llm: "LLM") -> str:
    """What computes, in some words."""
    facts = llm.backend.describe()
    if "device" not in facts:
        return f"{llm.backend.name}, {llm.config.threads} threads"
    return f"{facts['device']} ({', '.join(filter(None, (isa(llm), facts.get('tiles'))))})"


def isa(llm: "LLM") -> str:
    """The instruction set that runs, which a figure is nothing without."""
    return str(llm.backend.describe().get("isa", llm.backend.name))


def introduce(llm: "LLM") -> None:
    """Print the summary on stderr, in terminals."""
    console = stderr()
    if console.is_terminal:
        console.out(summary(llm), style="dim", highlight=False)


def size(nbytes: float) -> str:
    """Bytes for people: 1000-based, three digits."""
    unit = 0
    while nbytes >= 1000 and unit < len(UNITS) - 1:
        nbytes, unit = nbytes / 1000, unit + 1
    return f"{nbytes:.0f} {UNITS[unit]}" if unit == 0 or nbytes >= 100 else f"{nbytes:.3g} {UNITS[unit]}"
