"""A world in which drafting can be judged without a model: texts, heads that guess them, and a clock that passes move.

The arbiter under test is the real one, and so are sequences and batches. Heads are right with a probability that falls
with the position and shows in their margins. Time is what passes cost in `CostSeed`, so that results are exact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from stepahead.engine.batch import ScheduledBatch, ScheduledRows
from stepahead.engine.chunk_budget import ChunkBudget
from stepahead.engine.params import SamplingParams, Speculation
from stepahead.engine.request import Draft, FinishReason, Request, SequenceKV, SpeculationStats, Verdict
from stepahead.engine.request import Sequence as EngineSequence
from stepahead.engine.row_shares import rows_of_step
from stepahead.speculative.arbiter import Arbiter
from stepahead.speculative.cost import CostSeed, interpolate
from stepahead.speculative.draft_job import DraftJob

SEED = CostSeed(
    rows=(1, 2, 3, 4, 8, 16),
    pass_ms=(0.47, 0.54, 0.61, 0.68, 0.97, 1.5),
    num_experts=(0.0,) * 6,
    ms_per_expert=0.0,
    head_ms=(0.12, 0.12, 0.12),
    head_row_ms=0.01,
    kv_row_ms=0.004,
)

AUTO = Speculation()
CHUNK, SLACK, MAX_ROWS = 512, 17, 1200

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
        jobs = [self.job(one, min(one.request.depth, one.num_remaining_tokens - 1)) for one in sequences]
        margins = {job: [] for job in jobs}
        self.draft(jobs, lambda job, margin: margins[job].append(margin) or True)
        for job in jobs:
            job.sequence.draft = Draft(tuple(job.token_ids), tuple(margins[job]), "mtp")


class World:
    """Runs texts through one arbiter, one after the other or side by side."""

    def __init__(
        self,
        seed: CostSeed = SEED,
        first_lag: int = 0,
        luck: int = 7,
        cost: Callable[[int], float] | None = None,
        max_step_ms: float | None = None,
    ) -> None:
        """cost: milliseconds of a pass by its rows; as the seed has it, if it is not given."""
        self.seed = seed
        self.costs = interpolate(seed.rows, seed.pass_ms, MAX_ROWS)
        if cost is not None:
            self.costs = [cost(rows) for rows in range(MAX_ROWS + 1)]
        self.budget = ChunkBudget(max_step_ms)
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

    def start(self, text: Text, speculation: Speculation, is_read: bool = True) -> EngineSequence:
        """is_read: the prompt was run before."""
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
        if is_read:
            sequence.token_ids.append(text.tokens[0])
            sequence.num_computed_tokens = len(text.prompt)
        self.arbiter.begin(sequence)
        return sequence

    def step(self, sequences: list[EngineSequence]) -> ScheduledBatch:
        started = self.now
        self.arbiter.propose(sequences)
        batch = self.schedule(sequences)
        self.now += self.costs[batch.num_rows]
        verdicts = [self.verdict(rows) for rows in batch.rows]
        self.arbiter.observe(batch, None, verdicts)
        chunks = [(rows.end - rows.start, rows.start) for rows in batch.rows if rows.is_prompt]
        self.budget.learn(batch.num_rows - sum(count for count, _ in chunks), chunks, self.now - started)
        return batch

    def schedule(self, sequences: list[EngineSequence]) -> ScheduledBatch:
        rows, first, logits = [], 0, 0
        counts = rows_of_step(sequences, CHUNK, SLACK, self.budget)
        for sequence, count in zip(sequences, counts, strict=True):
            start, end = sequence.num_computed_tokens, sequence.num_computed_tokens + count
            num_logits = max(end - len(sequence.token_ids) + 1, 0)
            if count:
                rows.append(ScheduledRows(sequence, start, end, sequence.draft, first, logits, num_logits))
            first, logits = first + count, logits + num_logits
        return ScheduledBatch(tuple(rows))

    def verdict(self, rows: ScheduledRows) -> Verdict | None:
        """What the text has; the sequence goes on accordingly."""
        sequence = rows.sequence
        if not rows.num_logits:
            sequence.num_computed_tokens = rows.end
            return None
        text, position, accepted = self.texts[sequence.request.request_id].whole, len(sequence.token_ids), []
        for token_id in rows.draft.token_ids:
            if token_id != text[position + len(accepted)]:
                break
            accepted.append(token_id)
        verdict = Verdict(tuple(accepted), text[position + len(accepted)])
        sequence.stats.count(len(rows.draft.token_ids), len(accepted), rows.draft.source)
        sequence.token_ids += verdict.token_ids
        sequence.num_computed_tokens = len(sequence.token_ids) - 1
        if not sequence.num_remaining_tokens:
            sequence.finish_reason = FinishReason.LENGTH
        return verdict

    def serve(
        self, arrivals: Sequence[tuple[float, Text]], speculation: Speculation = AUTO, width: int = 4
    ) -> tuple[float, float]:
        """(milliseconds until all are done, mean of a request); each comes with its prompt, so many milliseconds after
        the first, and at most `width` run side by side."""
        started, waiting, spent = self.now, sorted(arrivals, key=lambda arrival: arrival[0]), 0.0
        running: list[tuple[float, EngineSequence]] = []
        while waiting or running:
            while waiting and len(running) < width and (not running or waiting[0][0] <= self.now - started):
                came, text = waiting.pop(0)
                self.now = max(self.now, started + came)
                running.append((started + came, self.start(text, speculation, is_read=False)))
            self.step([sequence for _, sequence in running])
            for came, sequence in running:
                if not sequence.num_remaining_tokens:
                    self.arbiter.forget(sequence.kv)
                    spent += self.now - came
            running = [one for one in running if one[1].num_remaining_tokens]
        return self.now - started, spent / len(arrivals)

    def run(self, text: Text, speculation: Speculation = AUTO) -> tuple[float, SpeculationStats]:
        """(milliseconds, statistics) of one request alone."""
        sequence, started = self.start(text, speculation), self.now
        while sequence.num_remaining_tokens > 0:
            self.step([sequence])
        self.arbiter.forget(sequence.kv)
        return self.now - started, sequence.stats

    def plain_ms(self, text: Text) -> float:
        return (len(text.tokens) - 1) * self.costs[1]
