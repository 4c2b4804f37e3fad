"""What the benchmarks of a chain of heads have in common: the model, the temperatures, and how a run ends."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from stepahead import LLM
from stepahead.errors import ConfigError, StepaheadError

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Measured(Generic[Found]):
    """At each temperature, and of which model."""

    name: str
    num_heads: int
    found: dict[float, Found]


def add_options(
    parser: argparse.ArgumentParser, cuts: int, texts: str, tokens: int, temperatures: Sequence[float]
) -> None:
    """texts: of what there are so many cuts."""
    parser.add_argument("--model", default="demo", help="a GGUF file with a chain of heads; default: the demo model")
    parser.add_argument("--threads", type=int, help="default: the cores")
    parser.add_argument("--cuts", type=int, default=cuts, help=f"beginnings of each of the {texts}; default: {cuts}")
    parser.add_argument("--tokens", type=int, default=tokens, help=f"written behind each; default: {tokens}")
    parser.add_argument("--temperatures", type=float, nargs="+", default=list(temperatures))


def measure_each(options: argparse.Namespace, measure: Callable[[LLM, float, int, int], Found]) -> Measured[Found]:
    """measure: gets the model, a temperature, --cuts and --tokens. Raises ConfigError for a model without heads."""
    with (LLM.demo if options.model == "demo" else lambda **load: LLM(Path(options.model), **load))(
        threads=options.threads, max_num_seqs=1, draft_vocab="full"
    ) as llm:
        if llm.model.draft is None or llm.model.draft.is_recurrent:
            raise ConfigError(f"{options.model}: has no chain of heads")
        found = {
            temperature: measure(llm, temperature, options.cuts, options.tokens) for temperature in options.temperatures
        }
        return Measured(llm.info.name, llm.model.draft.num_heads, found)


def exit_code(name: str, run: Callable[[], None]) -> int:
    """Of a run; what goes wrong is one line that begins with the benchmark's name."""
    try:
        run()
    except StepaheadError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        return 130
    return 0


def say(text: str) -> None:
    """Progress, over itself on a terminal; nothing elsewhere."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{text}")
        sys.stderr.flush()
