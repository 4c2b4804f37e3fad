"""Passes over the heads: catching up under a budget, while the text goes on, and drafts that end or go on as told."""

import numpy as np
import pytest

from stepahead.engine.logit_rows import LogitRows
from stepahead.engine.params import Speculation
from stepahead.engine.runner import StepInterrupted
from stepahead.engine.sampler import Sampler
from stepahead.speculative.draft_job import DraftJob
from stepahead.speculative.head_passes import MERGED_ROWS, HeadPasses
from stepahead.speculative.mtp import MtpProposer
from support.toy_heads import VOCAB, Simulation, ToyModel, ToyRunner, naive_draft

CHAINS = ("exact", "catchup")
MERGED = 16


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, length).tolist()


class Drafting:
    """A sequence whose heads are run by hand."""

    def __init__(
        self,
        window: int | None,
        chain: str = "exact",
        length: int = 200,
        max_rows: int = 512,
        merged: int = MERGED,
        **kwargs,
    ):
        self.runner = ToyRunner(ToyModel(window=window), **kwargs)
        self.proposer = MtpProposer(self.runner, Sampler(), max_rows)
        self.simulation = Simulation(self.proposer, self.runner, prompt(length), Speculation(chain=chain), 3)
        self.simulation.prefill(50)
        self.passes = HeadPasses(self.runner, self.runner.model.draft, max_rows, merged)
        self.chain = chain

    def job(self, depth: int) -> DraftJob:
        return self.proposer._job(self.simulation.sequence, self.chain, depth)

    def draft(self, depth: int) -> list[int]:
        """What the heads draft is what they would draft from nothing."""
        job = self.job(depth)
        margins: list[float] = []

        def choose(job: DraftJob, rows: LogitRows, number: int, ids: None) -> None:
            logits = rows.values[number]
            second, best = np.sort(logits)[-2:]
            margins.append(float(best) - float(second))
            job.token_ids.append(int(logits.argmax()))

        self.passes.run([job], choose)
        token_ids = self.simulation.sequence.token_ids
        assert (job.token_ids, margins) == naive_draft(self.runner.model, token_ids, self.chain, depth)
        return job.token_ids

    def go_on(self, num_tokens: int) -> None:
        """The text grows without drafts."""
        for _ in range(num_tokens):
            self.simulation.commit((), 0)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("window", [7, 40, 70])
@pytest.mark.parametrize("max_rows", [10, 64])
def test_heads_catch_up_while_the_text_goes_on(chain: str, depth: int, window: int, max_rows: int) -> None:
    drafting = Drafting(window, chain)
    rng = np.random.default_rng(window + depth)
    for _ in range(2):
        lag = drafting.passes.lag(drafting.job(depth))
        for _ in range(100):
            job = drafting.job(depth)
            expected = drafting.passes.lag(job)
            num_rows = drafting.passes.catch_up([job], max_rows)
            assert num_rows == min(expected, max_rows) or (0 < num_rows <= max_rows)
            assert drafting.passes.lag(job) <= expected - num_rows
            if drafting.passes.lag(job) == 0:
                break
            if rng.integers(0, 2):
                # A draft of another kind, some of whose rows are rejected, is only rows of the trunk to the heads.
                drafting.simulation.commit(prompt(4, len(job.sequence.token_ids)), int(rng.integers(0, 3)))
            else:
                drafting.go_on(1)
        else:
            pytest.fail(f"the heads never catch up from {lag}")
        before = [*drafting.simulation.sequence.stats.head_rows, 0, 0, 0][:3]
        drafting.draft(depth)
        rows = [now - b for now, b in zip(drafting.simulation.sequence.stats.head_rows, before, strict=True)]
        assert max(rows) <= MERGED + depth  # nothing was left to the first token
        drafting.go_on(100)


@pytest.mark.parametrize("chain", CHAINS)
def test_a_catch_up_of_several_jobs_shares_its_rows(chain: str) -> None:
    runner = ToyRunner(ToyModel(window=30))
    proposer = MtpProposer(runner, Sampler())
    passes = HeadPasses(runner, runner.model.draft, merged_rows=MERGED)
    simulations = [
        Simulation(proposer, runner, prompt(length, length), Speculation(chain=chain), 3) for length in (40, 90, 200)
    ]
    for simulation in simulations:
        simulation.prefill(100)
    while True:
        jobs = [proposer._job(simulation.sequence, chain, 3) for simulation in simulations]
        total = sum(passes.lag(job) for job in jobs)
        num_rows = passes.catch_up(jobs, 50)
        assert num_rows <= 50
        assert sum(passes.lag(job) for job in jobs) <= total - num_rows
        if num_rows == 0:
            break
        for simulation in simulations:
            simulation.commit((), 0)
    assert total == 0
    proposer.propose([simulation.sequence for simulation in simulations])
    for simulation in simulations:
        simulation.check()


@pytest.mark.parametrize("number", range(6))
def test_an_abandoned_catch_up_leaves_no_trace(number: int) -> None:
    drafting = Drafting(40)
    drafting.runner.interrupt_at = number
    interruptions = 0
    while drafting.passes.lag(drafting.job(3)):
        try:
            drafting.passes.catch_up([drafting.job(3)], 60)
        except StepInterrupted:
            interruptions += 1
        drafting.go_on(1)
    assert interruptions == 1
    drafting.draft(3)


def test_a_catch_up_without_blocks_runs_nothing_and_goes_on_when_there_are_some() -> None:
    drafting = Drafting(40, num_blocks=8)
    runner, other = drafting.runner, drafting.runner.kv_cache.new()
    assert runner.kv_cache.claim(other, 1, 0, 7 * 64)
    job = drafting.job(3)
    lag, num_rows = drafting.passes.lag(job), 0
    while ran := drafting.passes.catch_up([drafting.job(3)], 30):
        num_rows += ran
    assert 0 < num_rows < lag
    drafting.passes.run([job], lambda *_: pytest.fail("drafted without keys"))
    assert job.depth == 0
    drafting.go_on(3)
    runner.kv_cache.release(other)
    drafting.draft(3)


def test_lag_is_what_a_catch_up_runs() -> None:
    drafting = Drafting(40)
    for depth, windows in ((1, 1), (2, 3), (3, 6)):
        # The row of the last token, and those of the draft, are the draft's own.
        assert drafting.passes.lag(drafting.job(depth)) == 40 * windows - depth * depth
    before = list(drafting.job(3).cache.next_row)
    assert before == drafting.job(3).cache.next_row  # it changes nothing
    lag = drafting.passes.lag(drafting.job(3))
    assert drafting.passes.catch_up([drafting.job(3)], 1000) == lag
    assert sum(drafting.simulation.sequence.stats.head_rows) == lag
    drafting.go_on(MERGED)
    assert drafting.passes.lag(drafting.job(3)) == 0
    drafting.go_on(1)
    assert drafting.passes.lag(drafting.job(3)) == 3 * (MERGED + 1)


def test_rows_that_lag_a_little_ride_along() -> None:
    drafting = Drafting(40)
    drafting.draft(3)
    passes: list[tuple[int, int, int]] = []
    drafting.passes.on_pass = lambda head, rows, logits, seconds: passes.append((head, rows, logits))
    drafting.go_on(MERGED)
    drafting.draft(3)
    # The last draft's rows were not confirmed, but for the last token's own.
    assert passes == [(0, MERGED, 1), (1, MERGED + 1, 1), (2, MERGED + 2, 1)]
    passes.clear()
    drafting.go_on(1)
    drafting.draft(1)
    assert passes == [(0, 1, 1)]


def test_every_completed_pass_is_told() -> None:
    drafting = Drafting(40)
    told: list[tuple[int, int, int]] = []

    def on_pass(head: int, num_rows: int, num_logits: int, seconds: float) -> None:
        assert seconds > 0
        told.append((head, num_rows, num_logits))

    drafting.passes.on_pass = on_pass
    begun: list[int] = []
    drafting.runner.backend.begin_step = lambda: begun.append(drafting.runner.num_passes)
    drafting.draft(3)
    assert len(told) == drafting.runner.num_passes
    assert begun == list(range(len(told)))  # each a step of the backend's
    by_head = [sum(rows for head, rows, _ in told if head == number) for number in range(3)]
    assert by_head == drafting.simulation.sequence.stats.head_rows
    assert [head for head, _, num_logits in told if num_logits] == [0, 1, 2]


@pytest.mark.parametrize("window", [None, 10])
def test_choose_may_end_a_draft_and_let_it_go_on_up_to_its_first_depth(window: int | None) -> None:
    drafting = Drafting(window)
    rng = np.random.default_rng(1)
    for _ in range(20):
        stop = int(rng.integers(1, 4))
        job = drafting.job(3)

        def choose(job: DraftJob, rows: LogitRows, number: int, ids: None, stop: int = stop) -> None:
            job.token_ids.append(int(rows.values[number].argmax()))
            # One token at a time; beyond the first depth there are neither blocks nor heads.
            job.depth = len(job.token_ids) + (7 if len(job.token_ids) == 3 else len(job.token_ids) < stop)

        drafting.passes.run([job], choose)
        expected = naive_draft(drafting.runner.model, job.sequence.token_ids, "exact", stop)[0]
        assert job.token_ids == expected
        assert job.depth == stop
        drafting.simulation.commit(job.token_ids, int(rng.integers(0, stop + 1)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("window", [None, 2, 20, 70])
def test_any_depths_any_budgets_and_pauses(window: int | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    drafting = Drafting(window, length=int(rng.integers(2, 150)), merged=(MERGED, MERGED_ROWS)[seed % 2])
    for _ in range(50):
        depth = int(rng.integers(0, 4))
        if rng.integers(0, 2):
            drafting.passes.catch_up([drafting.job(depth)], int(rng.integers(1, 100)))
        if rng.integers(0, 2):
            draft = drafting.draft(depth)
            drafting.simulation.commit(draft, int(rng.integers(0, len(draft) + 1)))
        else:
            drafting.go_on(int(rng.integers(0, 40)))


@pytest.mark.parametrize("length", [500, 3000])
@pytest.mark.parametrize(
    ("depth", "rows", "outputs"), [(1, [50], [1]), (2, [99, 50], [50, 1]), (3, [148, 99, 50], [99, 50, 1])]
)
def test_of_a_long_prompt_half_the_rows_are_keys_and_values_alone(
    length: int, depth: int, rows: list[int], outputs: list[int]
) -> None:
    drafting = Drafting(50, length=length, num_blocks=64)
    drafting.draft(depth)
    assert drafting.simulation.sequence.stats.head_rows[:depth] == rows
    # Windows: head 0 runs three, two of them whole; head 1 two, one whole; head 2 one, of which the draft's row alone.
    assert drafting.runner.num_outputs[:depth] == outputs
