"""How many draft tokens are accepted at temperature, and how many could be: python -m benchmarks.temperature.

The text is the model's own, sampled behind beginnings of the built-in texts. Four ways of drafting with the same heads
are compared on it: tokens sampled with the target's noise, as the engine does it; the heads' likeliest tokens, accepted
if the target samples them; rejection sampling (Leviathan et al., 2023), which accepts a token as often as any scheme
can; and, at the places where the engine drafts, what any scheme could reach there: 1 - TV(target, head). Distributions
are filtered and tempered by the engine's sampler. The first way's counts are checked against those of the engine.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.every_row import MAX_TOKENS, EveryRow, Rows
from benchmarks.heads_by_temperature import add_options, exit_code, measure_each, say
from benchmarks.rounds import Counts, Shares, count, cumulative, figures, reach, shares, standard_error, tokens_per_step
from stepahead import LLM, SamplingParams, Speculation
from stepahead.cli.console import stdout
from stepahead.cli.report import table_of
from stepahead.engine.sampler import Sampler, SamplerState
from stepahead.errors import ConfigError
from stepahead.texts import KINDS, load

TEMPERATURES = (0.0, 0.6, 1.0)
TOP_P = 0.95
PROMPT_TOKENS = 256  # at most, the last before the cut
LEAST_PROMPT = 32

SHARED, ARGMAX, REJECTION, CEILING = "shared noise", "argmax drafts", "rejection sampling", "1 - TV"


@dataclass(frozen=True, slots=True, eq=False)
class Chances:
    """Of each draft token that could be made in one text, (places, depth) as rounds.reach wants them."""

    shared: Shares
    argmax: Shares
    rejection: Shares  # given the text's token; over all tokens that the target may choose, the mean is `overlap`
    overlap: Shares  # 1 - TV(target, head)


def chances_of(rows: Rows, sampler: Sampler, state: SamplerState) -> Chances:
    depth, num_rows = len(rows.heads), len(rows.trunk)
    found = np.full((4, num_rows, depth), np.nan)
    targets = [sampler.probabilities(logits, state) for logits in rows.trunk]
    for index, logits_of in enumerate(rows.heads):
        for place in range(num_rows - 1 - index):  # the text's last token is never drafted: the trunk adds one
            logits, target = logits_of[place], targets[place + index]
            position = rows.first + place + index + 1
            token, head = rows.token_ids[position], sampler.probabilities(logits, state)
            found[:, place, index] = (
                sampler.sample(logits, state, position).token_id == token,
                logits.argmax() == token,
                min(1.0, head[token] / target[token]),
                np.minimum(head, target).sum(),
            )
    return Chances(*found)


def schemes(chances: Chances) -> dict[str, Counts]:
    """Each scheme in its own rounds, but the ceiling in those of shared noise."""
    own = {SHARED: chances.shared, ARGMAX: chances.argmax, REJECTION: chances.rejection}
    reached = {name: reach(found) for name, found in own.items()}
    counts = {name: count(reached[name], found) for name, found in own.items()}
    return {**counts, CEILING: count(reached[SHARED], chances.overlap)}


def prompts(llm: LLM, num_cuts: int) -> Iterator[list[int]]:
    """Beginnings of the texts: each text ends at num_cuts places, so that a greedy model, too, writes many texts."""
    for kind in KINDS:
        for text in load(kind):
            ids = llm.tokenize(text.prompt)
            for end in np.linspace(LEAST_PROMPT, len(ids), num_cuts).astype(int) if num_cuts > 1 else [len(ids)]:
                yield ids[max(0, end - PROMPT_TOKENS) : end]


def measure(llm: LLM, temperature: float, num_cuts: int, num_tokens: int) -> list[dict[str, Counts]]:
    """The schemes' counts, text by text. The seed of a text is its number."""
    every, sampler = EveryRow(llm), Sampler(llm.backend.token_words)
    found: list[dict[str, Counts]] = []
    for seed, ids in enumerate(prompts(llm, num_cuts)):
        params = SamplingParams(
            num_tokens, temperature, top_p=TOP_P if temperature else 1.0, seed=seed, ignore_eos=True
        )
        completion = llm.generate(ids, params, Speculation("mtp", adaptive=False))
        rows = every.run([*ids, *completion.token_ids], len(ids), every.num_heads)
        counts = schemes(chances_of(rows, sampler, SamplerState(params, seed)))
        if counts[SHARED].accepted.tolist() != completion.speculation.num_accepted_tokens_per_pos:
            raise AssertionError("the engine accepted other draft tokens than these figures say")
        found.append(counts)
        say(f"temperature {temperature:g}: {len(found)} texts")
    return found


def report(found: dict[float, list[dict[str, Counts]]]) -> None:
    table = table_of("temperature, drafts", "conditional", "cumulative", "tokens a step", "standard errors up to")
    for temperature, texts in found.items():
        for name in (SHARED, ARGMAX, REJECTION, CEILING) if temperature else (SHARED,):
            counts = [text[name] for text in texts]
            error = max(standard_error(figure, counts).max() for figure in (shares, cumulative))
            step_error = standard_error(tokens_per_step, counts)[0]
            row = [f"{temperature:g} {name}", figures(shares(counts))]
            if name == CEILING:  # of other rounds than its own: no chain
                row += ["", "", f"{standard_error(shares, counts).max():.4f}"]
            else:
                steps = f"{tokens_per_step(counts)[0]:.2f}"
                row += [figures(cumulative(counts)), steps, f"{error:.4f}, a step {step_error:.3f}"]
            table.add_row(*row)
    stdout().print(table)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.temperature", description=__doc__)
    add_options(parser, 36, "18 texts", 192, TEMPERATURES)
    options = parser.parse_args(arguments)
    return exit_code("temperature", lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    if options.cuts < 1 or not 8 <= options.tokens <= MAX_TOKENS - PROMPT_TOKENS:
        raise ConfigError(f"give at least 1 of --cuts, and --tokens from 8 to {MAX_TOKENS - PROMPT_TOKENS}")
    measured = measure_each(options, measure)
    num_texts = len(next(iter(measured.found.values())))
    sys.stdout.write(
        f"{measured.name}, {num_texts} texts of {options.tokens} tokens a temperature, top_p {TOP_P} above 0\n"
    )
    report(measured.found)


if __name__ == "__main__":
    sys.exit(main())
