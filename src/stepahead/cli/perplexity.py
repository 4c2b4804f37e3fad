"""`stepahead perplexity`: how well a model predicts a text, teacher-forced in windows."""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepahead.cli import options as o
from stepahead.cli.console import Bar
from stepahead.cli.loading import open_llm
from stepahead.cli.prompt import read_text
from stepahead.errors import ConfigError, RequestError

if TYPE_CHECKING:
    from stepahead import LLM

WINDOW = 512


@dataclass(frozen=True, slots=True)
class Score:
    """Sums over the tokens that had a token before them in their window."""

    num_tokens: int
    num_windows: int
    window: int
    nats: float  # negative log-likelihood
    num_correct: int  # the best token was the right one

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.nats / self.num_tokens, 700.0))  # above, a double has no room


def perplexity(
    model: o.ModelArgument = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="The text, UTF-8; '-': standard input.", show_default=False)
    ] = None,
    window: Annotated[int, typer.Option("--window", help="Tokens a window; each begins anew.")] = WINDOW,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", help="Score at most this many tokens of the text.")
    ] = None,
    kv_type: o.KVTypeOption = "f16",
    threads: o.ThreadsOption = None,
    device: o.DeviceOption = "auto",
    repack: o.RepackOption = "auto",
    cpu_experts: o.CpuExpertsOption = "auto",
    gpu_layers: o.GpuLayersOption = None,
    json_output: o.JsonOption = False,
) -> None:
    """Measure the perplexity of a text. Lower is better; comparable only between models with one vocabulary.

    \b
    Examples:
      stepahead perplexity model.gguf --file wiki.txt
      stepahead perplexity --file main.py --window 1024 --json
    """
    if file is None:
        raise ConfigError("there is no text: give --file PATH, or --file - to read standard input")
    if window < 2:
        raise ConfigError(f"--window {window} is out of range: give at least 2, a token and one to predict")
    if max_tokens is not None and max_tokens < 2:
        raise ConfigError(f"--max-tokens {max_tokens} is out of range: give at least 2")
    text = read_text(file)
    # A window is all of its context that it fills.
    load = o.LoadOptions(
        model, "off", kv_type, threads, None, device, repack, memory_gb=math.inf, cpu_experts=cpu_experts,
        gpu_layers=gpu_layers,
    )  # fmt: skip
    with open_llm(load) as llm:
        score = _score(llm, llm.tokenize(text)[:max_tokens], window)
    if json_output:
        json.dump(_object(score), sys.stdout)
        sys.stdout.write("\n")
        return
    share = 100 * score.num_correct / score.num_tokens
    print(
        f"perplexity {score.perplexity:.4f} · {score.nats / score.num_tokens:.4f} nats/token · "
        f"best token right {share:.1f} % · {score.num_tokens} tokens in {score.num_windows} windows of {score.window}"
    )


def _score(llm: "LLM", ids: list[int], window: int) -> Score:
    """Raises RequestError for a text of fewer than two tokens or a window beyond the context."""
    if len(ids) < 2:
        raise RequestError(f"the text has {len(ids)} tokens: give at least 2, one to predict the other")
    if window > llm.config.context_length:
        raise RequestError(
            f"--window {window} is more than the context of {llm.config.context_length}: give at most that"
        )
    starts = [start for start in range(0, len(ids), window) if len(ids) - start > 1]
    nats, num_correct, num_tokens = 0.0, 0, 0
    with Bar("scoring") as bar:
        for start in starts:
            chunk = ids[start : start + window]
            chunk_nats, chunk_correct = _score_window(llm, chunk)
            nats += chunk_nats
            num_correct += chunk_correct
            num_tokens += len(chunk) - 1
            bar(start + len(chunk), len(ids))
    return Score(num_tokens, len(starts), window, nats, num_correct)


def _score_window(llm: "LLM", ids: list[int]) -> tuple[float, int]:
    """(nats, how often the best token was right) of ids[1:]."""
    import numpy as np

    targets, done, nats, num_correct = np.array(ids[1:]), 0, 0.0, 0
    for chunk in llm.logits_in_chunks(ids):
        wanted = targets[done : done + len(chunk)]
        rows = chunk[: len(wanted)].astype(np.float64)  # (num_rows, vocab_size); the last token predicts nothing here
        done += len(chunk)
        best = rows.max(axis=1, keepdims=True, initial=-np.inf)
        log_sums = np.log(np.exp(rows - best).sum(axis=1)) + best[:, 0]
        nats += float((log_sums - rows[np.arange(len(wanted)), wanted]).sum())
        num_correct += int((rows.argmax(axis=1) == wanted).sum()) if len(wanted) else 0
    return nats, num_correct


def _object(score: Score) -> dict[str, Any]:
    return {
        "perplexity": score.perplexity,
        "nats_per_token": score.nats / score.num_tokens,
        "num_tokens": score.num_tokens,
        "num_correct": score.num_correct,
        "num_windows": score.num_windows,
        "window": score.window,
    }
