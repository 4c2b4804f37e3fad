"""How well the heads draft a kind of text, and how much its tokens share their experts."""

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from stepahead.completion import Completion
from stepahead.diagnosis.gain import Expectation, Overhead, Overlap, draft_ms, expectations, pass_ms
from stepahead.diagnosis.overhead import measure_overhead
from stepahead.engine.params import SamplingParams, Speculation
from stepahead.llm import LLM
from stepahead.speculative.cost import CostSeed
from stepahead.speculative.expert_overlap import expert_overlap
from stepahead.texts import Text

MAX_DEPTH = 3  # of a head that is used again and again
PROMPT_TOKENS, MIN_PROMPT_TOKENS = 256, 32
PROMPT_SHARE = 0.1  # of all the time, for one prompt
MAX_TOKENS, MIN_TOKENS = 64, 16  # decoded of one text
WINDOW = 16  # rows of a pass
WINDOWS = 8
OVERLAP_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 16)


@dataclass(frozen=True, slots=True)
class TextReport:
    """One kind of text. acceptance[j]: the share of drafts whose first j + 1 tokens were right."""

    kind: str
    num_tokens: int
    acceptance: tuple[float, ...]  # () without heads
    overlap: Overlap  # {} without experts
    expectations: tuple[Expectation, ...]

    @property
    def best(self) -> Expectation | None:
        """The depth that is expected to gain most, or None where every depth loses."""
        best = max(self.expectations, key=lambda one: one.gain, default=None)
        return best if best is not None and best.gain > 1.0 else None


@dataclass(slots=True)
class _Counts:
    num_tokens: int = 0
    drafted: list[int] = field(default_factory=list)  # by position
    accepted: list[int] = field(default_factory=list)
    growths: list[Seq[int]] = field(default_factory=list)  # of windows, see Backend.routed_experts


class TextBench:
    """Runs texts with drafts of a fixed depth, and sums up by kind. The end of its time is kept by guessing ahead."""

    def __init__(self, llm: LLM, cost: CostSeed, prompt_rate: float, seconds: float, deadline: float) -> None:
        """prompt_rate: tokens a second; seconds: of the whole diagnosis, until the deadline of time.perf_counter."""
        draft = llm.model.draft
        self._llm = llm
        self._cost = cost
        self._prompt_tokens = max(MIN_PROMPT_TOKENS, min(PROMPT_TOKENS, int(PROMPT_SHARE * seconds * prompt_rate)))
        self._prompt_seconds = self._prompt_tokens / prompt_rate
        self._deadline = deadline
        self._depth = 0 if draft is None else min(draft.max_depth, max(draft.num_heads, MAX_DEPTH))
        self._overhead = Overhead()
        self._counts: dict[str, _Counts] = {}

    def measure_overhead(self, text: Text, seconds: float) -> Overhead:
        """For the expectations of all texts."""
        ids = self._prompt(text, MAX_TOKENS)
        self._overhead = measure_overhead(self._llm, self._cost, self._depth, ids, seconds)
        return self._overhead

    def run(self, text: Text) -> bool:
        """False, and nothing is done, if there is no time for it; the first text is always run."""
        num_tokens = self._affordable_tokens()
        if self._counts and num_tokens < MIN_TOKENS:
            return False
        num_tokens = min(max(num_tokens, MIN_TOKENS), self._llm.config.context_length // 2)
        prompt = self._prompt(text, num_tokens)
        counts = self._counts.setdefault(text.kind, _Counts())
        self._count_experts(prompt, counts)
        if self._depth:
            self._count_drafts(prompt, text.continuation, num_tokens, counts)
        return True

    def reports(self) -> tuple[TextReport, ...]:
        return tuple(self._report(kind, counts) for kind, counts in self._counts.items())

    def _prompt(self, text: Text, num_tokens: int) -> list[int]:
        """Its last tokens, as far as there are time and room for num_tokens more, or for as many again."""
        context = self._llm.config.context_length
        room = context - min(num_tokens, context // 2)
        return self._llm.tokenize(text.prompt)[-min(self._prompt_tokens, room) :]

    def _report(self, kind: str, counts: _Counts) -> TextReport:
        acceptance = tuple(
            accepted / drafted for accepted, drafted in zip(counts.accepted, counts.drafted, strict=True)
        )
        overlap = {
            num_rows: sum(expert_overlap(growth, num_rows) for growth in counts.growths) / len(counts.growths)
            for num_rows in OVERLAP_ROWS
            if counts.growths
        }
        expected = expectations(self._cost, acceptance, overlap, self._overhead)
        return TextReport(kind, counts.num_tokens, acceptance, overlap, expected)

    def _affordable_tokens(self) -> int:
        """What the time left is enough for, if every draft is wrong."""
        seconds = self._deadline - time.perf_counter() - self._prompt_seconds
        if self._cost.num_experts[0] > 0:
            seconds -= self._windows() * pass_ms(self._cost, WINDOW, {}) / 1e3
        step = pass_ms(self._cost, self._depth + 1, {}) + draft_ms(self._cost, self._depth, 0.0)
        return max(0, min(MAX_TOKENS, int(1e3 * seconds / step)))

    def _windows(self) -> int:
        """Fewer where they would take more than a tenth of the time left."""
        seconds = (self._deadline - time.perf_counter()) / 10
        return max(1, min(WINDOWS, int(1e3 * seconds / pass_ms(self._cost, WINDOW, {}))))

    def _count_experts(self, ids: list[int], counts: _Counts) -> None:
        """Passes of as many rows as a long draft has, over what is written and not what the model would write."""
        if self._cost.num_experts[0] == 0:
            return
        num_windows = min(self._windows(), len(ids) // WINDOW)
        if num_windows:
            for _ in self._llm.logits_in_chunks(ids[: num_windows * WINDOW], WINDOW):
                counts.growths.append(self._llm.backend.routed_experts())

    def _count_drafts(self, ids: list[int], continuation: str | None, num_tokens: int, counts: _Counts) -> None:
        completion = self._decode(ids, continuation, num_tokens)
        stats = completion.speculation
        counts.num_tokens += len(completion.token_ids)
        _add(counts.drafted, stats.num_draft_tokens_per_pos)
        _add(counts.accepted, stats.num_accepted_tokens_per_pos)

    def _decode(self, ids: list[int], continuation: str | None, num_tokens: int) -> Completion:
        drafting = Speculation("mtp", self._depth, adaptive=False)
        if continuation is None:
            return self._llm.generate(ids, SamplingParams(max_tokens=num_tokens, ignore_eos=True), drafting)
        recorded = self._llm.tokenizer.encode(continuation, add_bos=False)[:num_tokens]
        return self._llm.replay(ids, recorded, drafting)


def _add(total: list[int], counts: Seq[int]) -> None:
    total.extend([0] * (len(counts) - len(total)))
    for position, count in enumerate(counts):
        total[position] += count
