"""What quantising cost, measured on texts: how far the logits moved, and how many drafts are still accepted.

Both models see the same tokens. Acceptance is that of drafts after the old model's own greedy text, which the new one
is made to write as well, so that the same drafts are judged at the same places. Must not know: types, files' formats.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from stepahead.engine.params import SamplingParams, Speculation
from stepahead.errors import ConfigError
from stepahead.texts import KINDS, load

if TYPE_CHECKING:
    from stepahead import LLM
    from stepahead.engine.request import SpeculationStats

WINDOW = 512
ROWS = 64
"""Rows of logits at once: half a GB of float64 at 128,000 tokens, for both models and what is computed of them."""

PROMPT_TOKENS = 256
WRITTEN_TOKENS = 64
MAX_LOG = 700.0  # above, a double has no room for the exponential

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class CheckText:
    """prompt: where drafting is tried; text: what logits are compared on."""

    prompt: str
    text: str


@dataclass(slots=True)
class Side:
    """One model's sums."""

    nats: float = 0.0
    num_correct: int = 0
    drafted: list[int] = field(default_factory=list)  # by place in a draft
    accepted: list[int] = field(default_factory=list)

    def count(self, stats: "SpeculationStats") -> None:
        for sums, counts in (
            (self.drafted, stats.num_draft_tokens_per_pos),
            (self.accepted, stats.num_accepted_tokens_per_pos),
        ):
            sums.extend([0] * (len(counts) - len(sums)))
            for place, value in enumerate(counts):
                sums[place] += value

    @property
    def acceptance(self) -> list[float]:
        """By place in a draft: the share of drafts that are right up to it. Empty without heads."""
        return [accepted / drafted for accepted, drafted in zip(self.accepted, self.drafted, strict=True) if drafted]

    @property
    def tokens_per_step(self) -> float:
        """A pass over the trunk yields one token, and those of its draft that are accepted."""
        return 1.0 + (sum(self.accepted) / self.drafted[0] if self.drafted and self.drafted[0] else 0.0)


@dataclass(frozen=True, slots=True)
class CheckReport:
    old: Side
    new: Side
    num_tokens: int
    divergence: float  # sum of Kullback-Leibler divergences of the new from the old distribution, nats
    num_agreed: int  # the best token is the same

    def perplexity(self, side: Side) -> float:
        return math.exp(min(side.nats / self.num_tokens, MAX_LOG))

    @property
    def mean_divergence(self) -> float:
        return self.divergence / self.num_tokens

    @property
    def agreement(self) -> float:
        return self.num_agreed / self.num_tokens


def built_in_texts() -> list[CheckText]:
    texts = [text for kind in KINDS for text in load(kind)]
    return [CheckText(text.prompt, text.prompt + (text.continuation or "")) for text in texts]


def compare(
    old: "LLM",
    new: "LLM",
    texts: Sequence[CheckText],
    max_tokens: int | None = None,
    on_progress: Progress | None = None,
) -> CheckReport:
    """Run both models over the texts, of each at most max_tokens. on_progress(texts done, texts in all).

    Raises ConfigError for models of different vocabularies, or texts without two tokens.
    """
    if old.model.vocab_size != new.model.vocab_size:
        raise ConfigError(f"the vocabularies have {old.model.vocab_size} and {new.model.vocab_size} tokens")
    sides, num_tokens, divergence, num_agreed = (Side(), Side()), 0, 0.0, 0
    for done, text in enumerate(texts):
        ids = old.tokenize(text.text)[:max_tokens]
        for start in range(0, len(ids) - 1, WINDOW):
            window = ids[start : start + WINDOW]
            if len(window) > 1:
                moved, agreed = _compare_window(old, new, window, sides)
                divergence += moved
                num_agreed += agreed
                num_tokens += len(window) - 1
        _compare_drafts(old, new, old.tokenize(text.prompt)[:PROMPT_TOKENS], sides)
        if on_progress is not None:
            on_progress(done + 1, len(texts))
    if num_tokens == 0:
        raise ConfigError("the texts have no two tokens to compare the models on: give longer ones")
    return CheckReport(*sides, num_tokens, divergence, num_agreed)


def _compare_window(old: "LLM", new: "LLM", ids: list[int], sides: tuple[Side, Side]) -> tuple[float, int]:
    """(sum of divergences, how often the best token is the same); the last token predicts nothing here."""
    targets, done, divergence, num_agreed = np.array(ids[1:]), 0, 0.0, 0
    for chunks in zip(old.logits_in_chunks(ids, ROWS), new.logits_in_chunks(ids, ROWS), strict=True):
        wanted = targets[done : done + ROWS]
        done += ROWS
        if not len(wanted):
            break
        logs = [_log_softmax(chunk[: len(wanted)]) for chunk in chunks]
        best = [rows.argmax(1) for rows in logs]
        for side, rows, choice in zip(sides, logs, best, strict=True):
            side.nats -= float(rows[np.arange(len(wanted)), wanted].sum())
            side.num_correct += int((choice == wanted).sum())
        divergence += float((np.exp(logs[0]) * (logs[0] - logs[1])).sum())
        num_agreed += int((best[0] == best[1]).sum())
    return divergence, num_agreed


def _log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows


def _compare_drafts(old: "LLM", new: "LLM", prompt: list[int], sides: tuple[Side, Side]) -> None:
    if old.model.draft is None or new.model.draft is None or len(prompt) < 2:
        return
    depth = min(old.model.draft.max_depth, new.model.draft.max_depth)
    speculation = Speculation("mtp", depth=depth, adaptive=False)
    written = old.generate(prompt, SamplingParams(max_tokens=WRITTEN_TOKENS, ignore_eos=True), speculation)
    sides[0].count(written.speculation)
    again = new.replay(prompt, written.token_ids, speculation)
    sides[1].count(again.speculation)
