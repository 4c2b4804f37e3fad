"""Drafting changes no text: python -m benchmarks.same_text.

Prompts are cut from the standard library's source at random places. Each is continued without drafts, with those that
the engine chooses, and once more with the latter beside others; at temperature 0, .7 and 1, with the same seeds. Every
text must be the same, token for token. Exits 1 if one is not.
"""

import argparse
import sys
import sysconfig
from pathlib import Path

import numpy as np

from stepahead import LLM, SamplingParams, Speculation
from stepahead.errors import StepaheadError

TEMPERATURES = (0.0, 0.7, 1.0)
WIDTH = 8
LEAST, MOST = 16, 400  # tokens of a prompt


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    try:
        with LLM(options.model) if options.model else LLM.demo() as llm:
            num_wrong = compare(llm, cut_prompts(llm, options.prompts, options.seed), options.tokens)
    except StepaheadError as error:
        sys.stderr.write(f"same_text: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return 1 if num_wrong else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_text", description=__doc__)
    parser.add_argument("--model", type=Path, help="a GGUF file; default: the demo model")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=64, help="of each text; default: 64")
    parser.add_argument("--seed", type=int, default=0, help="of the places that prompts are cut at")
    return parser.parse_args(arguments)


def cut_prompts(llm: LLM, count: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    prompts: list[list[int]] = []
    while len(prompts) < count:
        text = files[int(rng.integers(0, len(files)))].read_text(encoding="utf-8", errors="replace")
        start = int(rng.integers(0, max(1, len(text) - 4 * MOST)))
        ids = llm.tokenize(text[start : start + 4 * MOST])[: int(rng.integers(LEAST, MOST))]
        if len(ids) >= LEAST:
            prompts.append(ids)
    return prompts


def compare(llm: LLM, prompts: list[list[int]], num_tokens: int) -> int:
    """Prints a line for each temperature; returns how many texts differ."""
    num_wrong = 0
    for temperature in TEMPERATURES:
        params = [SamplingParams(max_tokens=num_tokens, temperature=temperature, seed=n) for n in range(len(prompts))]
        pairs = list(zip(prompts, params, strict=True))
        plain = [llm.generate(prompt, one, Speculation("off")).token_ids for prompt, one in pairs]
        drafted = [llm.generate(prompt, one) for prompt, one in pairs]
        alone = [completion.token_ids for completion in drafted]
        # A list shares its settings, so those side by side have one seed: they are compared with their own alone.
        beside: list[list[int]] = []
        single: list[list[int]] = []
        for start in range(0, len(prompts), WIDTH):
            group = prompts[start : start + WIDTH]
            beside += [completion.token_ids for completion in llm.generate(group, params[start])]
            single += [llm.generate(prompt, params[start], Speculation("off")).token_ids for prompt in group]
        wrong = sum(a != b for a, b in zip(plain, alone, strict=True))
        wrong_beside = sum(a != b for a, b in zip(single, beside, strict=True))
        num_drafts = sum(completion.speculation.num_draft_tokens for completion in drafted)
        num_accepted = sum(completion.speculation.num_accepted_tokens for completion in drafted)
        sys.stdout.write(
            f"temperature {temperature}: {len(prompts)} prompts, {num_accepted} of {num_drafts} draft tokens accepted; "
            f"different texts: {wrong} alone, {wrong_beside} of those {WIDTH} at a time\n"
        )
        num_wrong += wrong + wrong_beside
    return num_wrong


if __name__ == "__main__":
    sys.exit(main())
