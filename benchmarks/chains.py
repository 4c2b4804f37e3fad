"""Which chain of heads drafts better, and what the last head is good for once more: python -m benchmarks.chains.

First, both chains (models/model.py) at each depth, by kind of text, as the engine runs them. Then drafts longer than
there are heads, in three ways: the last head as a further head of the trained chain, run over its own outputs at every
row, with keys of its own ("as a head"); the last head on its own newest output alone, behind the keys that it has ("on
its output"); and llama.cpp's chain, where keys come from the trunk and draft rows are chained ("in catchup"). What
a longer draft is worth is told at given costs of a head's pass and of a row to verify, in plain steps: one token more
pays if it is accepted more often than its price, and "at best" is what it would add to the speed if it were drafted
where all before it are right, and nowhere else.

An edit, when greedy, is played back from its recording; all other texts are the model's own.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np

from benchmarks.heads_by_temperature import add_options, exit_code, measure_each, say
from benchmarks.reused_head import AS_HEAD, CATCHUP, LONGEST, ON_OUTPUT, Choose, Reuse
from benchmarks.rounds import Counts, count, cumulative, figures, reach, shares, standard_error, tokens_per_step
from stepahead import LLM, Completion, SamplingParams, Speculation
from stepahead.cli.console import stdout
from stepahead.cli.report import table_of
from stepahead.engine.sampler import Sampler, SamplerState
from stepahead.errors import ConfigError
from stepahead.models.model import Chain
from stepahead.texts import load

KINDS = ("code", "prose", "json", "edit")
TEMPERATURES = (0.0, 0.8)
LEAST_PROMPT = 32
ALL = "all"
ALL_CHAINS: tuple[Chain, ...] = get_args(Chain)


@dataclass(frozen=True, slots=True)
class Beginning:
    """A prompt, and what follows it if that is given."""

    kind: str
    ids: list[int]
    recorded: list[int] | None = None


def beginnings(llm: LLM, num_cuts: int, num_tokens: int) -> Iterator[Beginning]:
    """Each text cut at num_cuts places; an edit within its recording."""
    for kind in KINDS:
        for text in load(kind):
            ids = llm.tokenize(text.prompt)
            if text.continuation is None:
                for end in _places(LEAST_PROMPT, len(ids), num_cuts):
                    yield Beginning(kind, ids[:end])
                continue
            recorded = llm.tokenizer.encode(text.continuation, add_bos=False)
            for start in _places(0, max(len(recorded) - num_tokens, 0), num_cuts):
                yield Beginning(kind, ids + recorded[:start], recorded[start : start + num_tokens])


def _places(first: int, last: int, number: int) -> list[int]:
    return [last] if number == 1 else np.linspace(first, last, number).astype(int).tolist()


def write(llm: LLM, begin: Beginning, params: SamplingParams, speculation: Speculation) -> Completion:
    """The recording where there is one and nothing is drawn, else what the model writes."""
    if begin.recorded is not None and params.temperature == 0.0:
        return llm.replay(begin.ids, begin.recorded, speculation, params)
    return llm.generate(begin.ids, params, speculation)


def drafted(completion: Completion) -> Counts:
    """As the engine counted; every draft counts at each of its positions, so that shares are cumulative."""
    stats = completion.speculation
    return Counts(
        np.array(stats.num_draft_tokens_per_pos, np.float64), np.array(stats.num_accepted_tokens_per_pos, np.float64)
    )


Found = dict[str, dict[tuple[str, int], list[Counts]]]
"""By kind, and for all of them together as ALL; then by chain or way of reuse, and depth: a text's counts each."""


def measure(llm: LLM, temperature: float, num_cuts: int, num_tokens: int) -> Found:
    """The seed of a text is its number."""
    assert llm.model.draft is not None
    num_heads, sampler, reuse = llm.model.draft.num_heads, Sampler(llm.backend.token_words), Reuse(llm)
    found: Found = {ALL: {}, **{kind: {} for kind in KINDS}}

    def note(kind: str, name: str, depth: int, counts: Counts) -> None:
        for group in (ALL, kind):
            found[group].setdefault((name, depth), []).append(counts)

    for seed, begin in enumerate(beginnings(llm, num_cuts, num_tokens)):
        params = SamplingParams(num_tokens, temperature, seed=seed, ignore_eos=True)
        text, engine = written(llm, begin, params, num_heads)
        for (chain, depth), counts in engine.items():
            note(begin.kind, chain, depth, counts)
        choose = chooser(sampler, SamplerState(params, seed))
        ways = reuse.chances([*begin.ids, *text], len(begin.ids), choose)
        for way, chances in ways.items():
            for depth in range(num_heads, LONGEST + 1):
                note(begin.kind, way, depth, count(reach(chances[:, :depth]), chances[:, :depth]))
            same = engine["catchup" if way == CATCHUP else "exact", num_heads].accepted
            if found[begin.kind][way, num_heads][-1].accepted.tolist() != same.tolist():
                raise AssertionError(f"{way}: the engine accepted other draft tokens than these figures say")
        say(f"temperature {temperature:g}: {seed + 1} texts")
    return found


def written(
    llm: LLM, begin: Beginning, params: SamplingParams, num_heads: int
) -> tuple[list[int], dict[tuple[str, int], Counts]]:
    """A text, and what each chain had accepted of it at each depth."""
    texts = {
        (chain, depth): write(llm, begin, params, Speculation("mtp", depth, adaptive=False, chain=chain))
        for chain in ALL_CHAINS
        for depth in range(1, num_heads + 1)
    }
    return texts["exact", 1].token_ids, {name: drafted(text) for name, text in texts.items()}


def chooser(sampler: Sampler, state: SamplerState) -> Choose:
    return lambda logits, position: sampler.sample(logits, state, position).token_id


def report_chains(found: dict[float, Found], num_heads: int) -> None:
    depths = range(1, num_heads + 1)
    columns = [f"{chain}, {name}" for chain in ALL_CHAINS for name in ("accepted", "tokens a step")]
    table = table_of("temperature, text", *columns, "±")
    for temperature, kinds in found.items():
        for kind, counts in kinds.items():
            row, errors = [f"{temperature:g} {kind}"], []
            for chain in ALL_CHAINS:
                steps = [1.0 + shares(counts[chain, depth]).sum() for depth in depths]
                row += [figures(shares(counts[chain, num_heads])), " ".join(f"{step:.2f}" for step in steps)]
                errors += [standard_error(shares, counts[chain, depth]).max() for depth in depths]
            table.add_row(*row, f"{max(errors):.3f}")
    stdout().print(table)


def report_reuse(found: dict[float, Found], num_heads: int, cost: float) -> None:
    depths = range(num_heads, LONGEST + 1)
    beyond = " ".join(str(depth) for depth in depths)
    table = table_of(
        "temperature, text, last head",
        "accepted",
        f"tokens a step at {beyond}",
        f"speed at {beyond}",
        f"token {num_heads + 1}",
        "price",
        "at best",
        "±",
    )
    for temperature, kinds in found.items():
        for kind, counts in kinds.items():
            for way in (AS_HEAD, ON_OUTPUT, CATCHUP):
                steps = [tokens_per_step(counts[way, depth])[0] for depth in depths]
                speeds = [step / (1.0 + depth * cost) for step, depth in zip(steps, depths, strict=True)]
                further, price = cumulative(counts[way, num_heads + 1]), cost * speeds[0]
                gain = max(0.0, further[-1] - further[-2] * price) / steps[0]
                table.add_row(
                    f"{temperature:g} {kind}, {way}",
                    figures(shares(counts[way, LONGEST])),
                    " ".join(f"{step:.2f}" for step in steps),
                    " ".join(f"{speed:.2f}" for speed in speeds),
                    figures(further[-1:]),
                    figures(np.array([price])),
                    f"{100 * gain:.1f} %",
                    f"{standard_error(cumulative, counts[way, LONGEST]).max():.3f}",
                )
    stdout().print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chains", description=__doc__)
    add_options(parser, 12, "12 texts", 128, TEMPERATURES)
    parser.add_argument("--pass-cost", type=float, default=0.16, help="of a head, in plain steps; default: the demo's")
    parser.add_argument("--row-cost", type=float, default=0.12, help="of a draft token's row in the trunk, likewise")
    options = parser.parse_args(arguments)
    return exit_code("chains", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    if options.cuts < 1 or options.tokens < 8:
        raise ConfigError("give at least 1 of --cuts, and at least 8 of --tokens")
    measured = measure_each(options, measure)
    found, num_heads = measured.found, measured.num_heads
    num_texts = len(found[options.temperatures[0]][ALL]["exact", 1])
    sys.stdout.write(
        f"{measured.name}, {num_texts} texts of {options.tokens} tokens a temperature; accepted of all drafts\n"
    )
    report_chains(found, num_heads)
    sys.stdout.write(
        f"the last head beyond depth {num_heads}: accepted of those judged; a pass costs {options.pass_cost:g}, "
        f"a row {options.row_cost:g} plain steps; speed in tokens a plain step\n"
    )
    report_reuse(found, num_heads, options.pass_cost + options.row_cost)


if __name__ == "__main__":
    sys.exit(main())
