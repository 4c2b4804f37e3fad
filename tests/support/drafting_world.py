"""A world in which drafting can be judged without a model: texts, heads that guess them, and a clock that passes move.

The arbiter under test is the real one, and so are sequences and batches. Heads are right with a probability that falls
with the position and shows in their margins. Time is what passes cost in `CostSeed`, so that results are exact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from stepahead.engine.batch import ScheduledBatch, ScheduledRows
from stepahead.engine.params import SamplingParams, Speculation
from stepahead.engine.request import Draft, Request, SequenceKV, SpeculationStats, Verdict
from stepahead.engine.request import Sequence as EngineSequence
from stepahead.speculative.arbiter import Arbiter
from stepahead.speculative.cost import CostSeed, interpolate
from stepahead.speculative.head_passes import DraftJob

SEED = CostSeed(
    rows=(1, 2, 3, 4, 8, 16),
    pass_ms=(0.47, 0.54, 0.61, 0.68, 0.97, 1.5),
    num_experts=(0.0,) * 6,
    ms_per_expert=0.0,
    head_ms=(0.12, 0.12, 0.12),
    head_row_ms=0.01,
    kv_row_ms=0.004,
)

Rates = Callable[[int], Sequence[float]]
"""Of the token at a position: how likely each head is right about it, those before it being right."""


@dataclass
class Text:
    """A prompt, what follows, and how well heads know it."""

    prompt: list[int]
    tokens: list[int]
    rates: Rates

    @property
    def whole(self) -> list[int]:
        return self.prompt + self.tokens


def fixed(*rates: float) -> Rates:
    return lambda position: rates


def random_text(length: int, rates: Rates, seed: int = 0, prompt: int = 8, vocab: int = 5000) -> Text:
    """Nothing to copy in it."""
    tokens = np.random.default_rng(seed).integers(0, vocab, prompt + length).tolist()
    return Text(tokens[:prompt], tokens[prompt:], rates)


class FakeHeads:
    """What the arbiter needs of an MtpProposer; drafts by coin."""

    max_depth = 3

    def __init__(self, world: "World") -> None:
        self.world = world
        self.hear = lambda *_: None
        self.num_passes = 0
        self.lags: dict[int, int] = {}  # request_id -> rows

    def on_pass(self, hear):
        self.hear = hear

    def begin(self, sequence):
        self.lags[sequence.request.request_id] = self.world.first_lag

    def forget(self, kv):
        pass

    def observe(self, batch, hidden, verdicts):
        pass

    def job(self, sequence, depth):
        return DraftJob(sequence, None, len(sequence.token_ids) - 1, min(depth, self.max_depth))

    def lag(self, job):
        return self.lags[job.sequence.request.request_id]

    def catch_up(self, jobs, max_rows):
        (job,) = jobs
        rows = min(max_rows, self.lag(job))
        self.lags[job.sequence.request.request_id] -= rows
        milliseconds = self.world.seed.head_row_ms * rows
        self.world.now += milliseconds
        self.world.longest_wait = max(self.world.longest_wait, milliseconds)
        self.hear(0, rows, 0, milliseconds / 1e3)
        return rows

    def draft(self, jobs, wants_more):
        for step in range(self.max_depth):
            active = [job for job in jobs if job.depth > step]
            if not active:
                return
            milliseconds = self.world.seed.head_ms[step] + sum(self.lag(job) for job in active) * 0.01
            for job in active:
                self.lags[job.sequence.request.request_id] = 0
            self.world.now += milliseconds
            self.num_passes += 1
            self.hear(step, len(active), len(active), milliseconds / 1e3)
            for job in active:
                token_id, margin = self.world.guess(job.sequence, len(job.sequence.token_ids) + step, step)
                job.token_ids.append(token_id)
                if not wants_more(job, margin):
                    job.depth = len(job.token_ids)

    def propose(self, sequences):
        for sequence in sequences:
            job = self.job(sequence, min(sequence.request.depth, sequence.num_remaining_tokens - 1))
            margins = []
            self.draft([job], lambda _, margin: margins.append(margin) or True)  # noqa: B023
            sequence.draft = Draft(tuple(job.token_ids), tuple(margins), "mtp")


class World:
    """Runs texts through one arbiter, one after the other or side by side."""

    def __init__(self, seed: CostSeed = SEED, overhead: float = 0.0, first_lag: int = 0, luck: int = 7) -> None:
        self.seed = seed
        self.costs = interpolate(seed.rows, seed.pass_ms, 200)
        self.now = 0.0  # milliseconds
        self.longest_wait = 0.0
        self.first_lag = first_lag
        self.rng = np.random.default_rng(luck)
        self.heads = FakeHeads(self)
        runner = SimpleNamespace(model=SimpleNamespace(vocab_size=5000), expert_growth=())
        self.arbiter = Arbiter(self.heads, lambda: seed, runner, clock=lambda: self.now / 1e3)
        self.arbiter.prepare()
        self.texts: dict[int, Text] = {}
        self.num_requests = 0

    def guess(self, sequence: EngineSequence, position: int, step: int) -> tuple[int, float]:
        text = self.texts[sequence.request.request_id]
        rates = text.rates(position)
        rate = rates[step] if step < len(rates) else 0.0
        # Margins tell something: a rate of .7 is a mixture of nearly certain and of doubtful tokens.
        certain = self.rng.random() < rate
        is_right = self.rng.random() < (0.6 * rate + 0.4 if certain else 0.6 * rate)
        margin = float(self.rng.gamma(4.0, 1.5) if certain else self.rng.gamma(1.0, 0.5))
        token_id = text.whole[position] if position < len(text.whole) else 0
        return (token_id if is_right else 5001 + step), margin

    def start(self, text: Text, speculation: Speculation) -> EngineSequence:
        self.num_requests += 1
        depth = {"off": 0}.get(speculation.mode, speculation.depth if speculation.depth is not None else 15)
        request = Request(
            request_id=self.num_requests,
            prompt_ids=tuple(text.prompt),
            params=SamplingParams(),
            speculation=speculation,
            seed=0,
            max_new_tokens=len(text.tokens),
            end_ids=frozenset(),
            depth=depth,
        )
        sequence = EngineSequence(request, SequenceKV(self.num_requests, 1))
        self.texts[self.num_requests] = text
        sequence.token_ids.append(text.tokens[0])
        sequence.num_computed_tokens = len(text.prompt)
        self.arbiter.begin(sequence)
        return sequence

    def step(self, sequences: list[EngineSequence]) -> None:
        self.arbiter.propose(sequences)
        rows, first = [], 0
        for sequence in sequences:
            start, count = sequence.num_computed_tokens, 1 + len(sequence.draft.token_ids)
            rows.append(ScheduledRows(sequence, start, start + count, sequence.draft, first, first, count))
            first += count
        self.now += self.costs[first]
        verdicts = []
        for part in rows:
            sequence = part.sequence
            text, position, accepted = self.texts[sequence.request.request_id].whole, len(sequence.token_ids), []
            for token_id in part.draft.token_ids:
                if token_id != text[position + len(accepted)]:
                    break
                accepted.append(token_id)
            verdicts.append(Verdict(tuple(accepted), text[position + len(accepted)]))
            sequence.stats.count(len(part.draft.token_ids), len(accepted), part.draft.source)
            sequence.token_ids += verdicts[-1].token_ids
            sequence.num_computed_tokens = len(sequence.token_ids) - 1
        self.arbiter.observe(ScheduledBatch(tuple(rows)), None, verdicts)

    def run(self, text: Text, speculation: Speculation = Speculation()) -> tuple[float, SpeculationStats]:  # noqa: B008
        """(milliseconds, statistics) of one request alone."""
        sequence, started = self.start(text, speculation), self.now
        while sequence.num_remaining_tokens > 0:
            self.step([sequence])
        self.arbiter.forget(sequence.kv)
        return self.now - started, sequence.stats

    def plain_ms(self, text: Text) -> float:
        return (len(text.tokens) - 1) * self.costs[1]
