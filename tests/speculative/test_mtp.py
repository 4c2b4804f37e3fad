"""Drafting with MTP heads: whatever was cached, kept, restarted or given back, a draft has the bits of one made from
nothing but the tokens."""

import numpy as np
import pytest

from stepahead.engine.params import Speculation
from stepahead.engine.request import NO_DRAFT
from stepahead.engine.runner import StepInterrupted
from stepahead.engine.sampler import Sampler, SamplerState
from stepahead.errors import CapacityError, RequestError
from stepahead.speculative.mtp import MtpProposer
from support.toy_heads import VOCAB, Simulation, ToyModel, ToyRunner, naive_draft

CHAINS = ("exact", "catchup")


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCAB, length).tolist()


def setup(model: ToyModel, max_rows: int = 512, **kwargs) -> tuple[ToyRunner, MtpProposer]:
    runner = ToyRunner(model, **kwargs)
    return runner, MtpProposer(runner, Sampler(), max_rows)


def simulate(model: ToyModel, chain: str, depth: int, length: int, chunk: int = 16, max_rows: int = 512) -> Simulation:
    runner, proposer = setup(model, max_rows)
    simulation = Simulation(proposer, runner, prompt(length), Speculation(chain=chain), depth)
    simulation.prefill(chunk)
    return simulation


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("window", [None, 1, 2, 5, 64, 70])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 17, 211])
def test_first_draft_after_a_prompt_of_any_length(chain: str, window: int | None, length: int) -> None:
    simulate(ToyModel(window=window), chain, 3, length).propose_and_check()


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("max_rows", [1, 4, 64, 512])
@pytest.mark.parametrize("chunk", [3, 40, 1000])
def test_chunks_of_prompt_and_of_catch_up_do_not_matter(chain: str, max_rows: int, chunk: int) -> None:
    simulation = simulate(ToyModel(window=30), chain, 3, 150, chunk, max_rows)
    simulation.propose_and_check()
    assert simulation.runner.max_rows <= max_rows + 3


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("num_accepted", [0, 1, 2, 3])
def test_rejection_at_each_offset(chain: str, window: int | None, num_accepted: int) -> None:
    simulation = simulate(ToyModel(window=window), chain, 3, 40)
    for _ in range(40):
        draft = simulation.propose_and_check()
        simulation.commit(draft, num_accepted)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("window", [None, 1, 2, 7, 33])
@pytest.mark.parametrize("seed", range(4))
def test_any_depths_and_any_verdicts(chain: str, window: int | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    simulation = simulate(ToyModel(window=window), chain, 1, int(rng.integers(1, 120)), int(rng.integers(1, 50)))
    for _ in range(90):
        simulation.set_depth(int(rng.choice([0, 1, 1, 1, 2, 3])))
        draft = simulation.propose_and_check()
        num_verified = int(rng.integers(0, len(draft) + 1))  # the scheduler may cut a draft
        simulation.commit(draft[:num_verified], int(rng.integers(0, num_verified + 1)))


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("window", [None, 6])
def test_recurrent_head(chain: str, window: int | None) -> None:
    model = ToyModel(num_heads=1, window=window, is_recurrent=True, max_depth=8)
    simulation = simulate(model, chain, 8, 50)
    rng = np.random.default_rng(1)
    for _ in range(30):
        simulation.set_depth(int(rng.integers(1, 9)))
        draft = simulation.propose_and_check()
        simulation.commit(draft, int(rng.integers(0, len(draft) + 1)))


def test_exact_chain_runs_nothing_again() -> None:
    simulation = simulate(ToyModel(window=5), "exact", 3, 30)
    simulation.commit(simulation.propose_and_check(), 3)
    before = list(simulation.sequence.stats.head_rows)
    passes = simulation.runner.num_passes
    simulation.commit(simulation.propose_and_check(), 0)
    rows = [after - b for after, b in zip(simulation.sequence.stats.head_rows, before, strict=True)]
    # Head k lacks the accepted rows its last draft did not cover, and the k + 1 rows of this draft.
    assert rows == [4, 4, 4]
    assert simulation.runner.num_passes == passes + 3
    before = list(simulation.sequence.stats.head_rows)
    simulation.propose_and_check()
    assert [after - b for after, b in zip(simulation.sequence.stats.head_rows, before, strict=True)] == [1, 2, 3]


@pytest.mark.parametrize("length", [64, 200, 500])
def test_lazy_prefill_runs_three_two_and_one_windows(length: int) -> None:
    window = 20
    simulation = simulate(ToyModel(window=window), "exact", 3, length)
    simulation.propose_and_check()
    assert simulation.sequence.stats.head_rows == [3 * window - 2, 2 * window - 1, window]


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("num_rounds", [30, 70, 100, 300])
def test_a_head_that_wakes_up_late_finds_its_keys_or_runs_them(chain: str, num_rounds: int) -> None:
    simulation = simulate(ToyModel(window=70), chain, 3, 300)
    for depth, count in ((3, 1), (1, num_rounds), (2, 1), (3, 2)):
        simulation.set_depth(depth)
        for _ in range(count):
            simulation.proposer.propose([simulation.sequence])
            simulation.commit(simulation.sequence.draft.token_ids if depth == 1 else simulation.check(), 0)


def test_the_exact_chain_has_no_draft_from_position_0() -> None:
    simulation = simulate(ToyModel(), "exact", 3, 1)
    with pytest.raises(RequestError, match="give 2 tokens"):
        simulation.proposer.draft_logits(simulation.sequence, "exact")
    assert simulation.proposer.draft_logits(simulation.sequence, "catchup").shape == (3, VOCAB)


def test_heads_beyond_the_depth_do_not_run() -> None:
    simulation = simulate(ToyModel(window=20), "exact", 1, 500)
    simulation.propose_and_check()
    assert simulation.sequence.stats.head_rows[1:] == [0, 0]


@pytest.mark.parametrize("chain", CHAINS)
def test_sequences_side_by_side_share_the_passes(chain: str) -> None:
    runner, proposer = setup(ToyModel(window=9), max_rows=50)
    lengths, depths = (1, 30, 90, 200), (3, 1, 2, 3)
    simulations = [
        Simulation(proposer, runner, prompt(length, length), Speculation(chain=chain), depth)
        for length, depth in zip(lengths, depths, strict=True)
    ]
    for simulation in simulations:
        simulation.prefill(37)
    rng = np.random.default_rng(3)
    for number in range(20):
        passes = runner.num_passes
        proposer.propose([simulation.sequence for simulation in simulations])
        assert number == 0 or runner.num_passes - passes <= 3
        for simulation in simulations:
            draft = simulation.check()
            simulation.commit(draft, int(rng.integers(0, len(draft) + 1)))


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("num_kept", [0, 100, 130, 137])
@pytest.mark.parametrize("num_new", [2, 30])
def test_a_reused_prefix_continues(chain: str, num_kept: int, num_new: int) -> None:
    runner, proposer = setup(ToyModel(window=9))
    first = Simulation(proposer, runner, prompt(120), Speculation(chain=chain), 3)
    first.prefill(50)
    for _ in range(9):
        first.commit(first.propose_and_check(), 1)
    kv = first.sequence.kv
    assert kv.num_tokens == 137
    runner.kv_cache.truncate(kv, num_kept)
    turn = [*first.sequence.token_ids[:num_kept], *prompt(num_new, 1)]
    second = Simulation(proposer, runner, turn, Speculation(chain=chain), 3, kv)
    second.prefill(16)
    for _ in range(5):
        second.commit(second.propose_and_check(), 2)


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("num_kept", [9, 12, 30, 60])
def test_a_prompt_is_asked_again_after_a_long_answer(chain: str, num_kept: int) -> None:
    # So long that the last level has dropped the rows around the prompt, and the first has not.
    runner, proposer = setup(ToyModel(window=9))
    first = Simulation(proposer, runner, prompt(10), Speculation(chain=chain), 3)
    first.prefill(50)
    for _ in range(20):
        first.commit(first.propose_and_check(), 3)
    kv = first.sequence.kv
    assert kv.num_tokens == 89
    runner.kv_cache.truncate(kv, num_kept)
    second = Simulation(proposer, runner, [*first.sequence.token_ids[:num_kept], 3], Speculation(chain=chain), 3, kv)
    second.prefill(16)
    for _ in range(5):
        second.commit(second.propose_and_check(), 2)


@pytest.mark.parametrize("window", [None, 4])
def test_a_chain_may_change_on_a_reused_prefix(window: int | None) -> None:
    runner, proposer = setup(ToyModel(window=window))
    kv, turn = None, prompt(40)
    for chain in ("exact", "catchup", "exact", "exact"):
        simulation = Simulation(proposer, runner, turn, Speculation(chain=chain), 3, kv)
        simulation.prefill(16)
        simulation.commit(simulation.propose_and_check(), 2)
        kv, turn = simulation.sequence.kv, [*simulation.sequence.token_ids, *prompt(3)]


@pytest.mark.parametrize("chain", CHAINS)
def test_recomputing_a_sequence_from_the_start(chain: str) -> None:
    simulation = simulate(ToyModel(window=6), chain, 3, 90)
    simulation.propose_and_check()
    simulation.runner.kv_cache.release(simulation.sequence.kv)
    simulation.sequence.num_computed_tokens = 0
    simulation.prefill(1000)
    simulation.propose_and_check()


@pytest.mark.parametrize("chain", CHAINS)
def test_an_unknown_prefix_still_drafts(chain: str) -> None:
    runner, proposer = setup(ToyModel(window=None))
    simulation = Simulation(proposer, runner, prompt(60), Speculation(mode="off"), 0)
    simulation.prefill(16)
    assert not proposer._caches  # nothing is kept for a request that never drafts
    turn = [*simulation.sequence.token_ids, *prompt(8, 2)]
    second = Simulation(proposer, runner, turn, Speculation(chain=chain), 3, simulation.sequence.kv)
    second.prefill(3)
    proposer.propose([second.sequence])
    assert len(second.sequence.draft.token_ids) == 3  # from short histories: other drafts, no harm
    proposer.forget(second.sequence.kv)
    assert not proposer._caches


@pytest.mark.parametrize("chain", CHAINS)
def test_a_prefix_whose_middle_was_not_observed_starts_anew(chain: str) -> None:
    runner, proposer = setup(ToyModel(window=3))
    kv, turn = None, prompt(20)
    for mode in ("auto", "off", "auto"):
        simulation = Simulation(
            proposer, runner, turn, Speculation(mode=mode, chain=chain), 0 if mode == "off" else 3, kv
        )
        simulation.prefill(16)
        simulation.propose_and_check()
        kv, turn = simulation.sequence.kv, [*simulation.sequence.token_ids, *prompt(20, 1)]


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("number", range(8))
def test_an_abandoned_pass_leaves_no_trace(chain: str, number: int) -> None:
    simulation = simulate(ToyModel(window=20), chain, 3, 100, max_rows=40)
    simulation.runner.interrupt_at = number
    for _ in range(3):
        try:
            draft = simulation.propose_and_check()
        except StepInterrupted:
            assert simulation.sequence.draft is NO_DRAFT
            draft = simulation.propose_and_check()
        simulation.commit(draft, 2)


def test_without_blocks_the_draft_gets_shorter() -> None:
    runner, proposer = setup(ToyModel(window=200), num_blocks=2)
    simulation = Simulation(proposer, runner, prompt(127), Speculation(), 3)
    simulation.prefill(1000)
    proposer.propose([simulation.sequence])
    expected, _ = naive_draft(runner.model, simulation.sequence.token_ids, "exact", 2)
    assert list(simulation.sequence.draft.token_ids) == expected  # position 128 has no block
    other = runner.kv_cache.new()
    assert not runner.kv_cache.claim(other, 1, 0, 1)


def test_without_any_block_there_is_no_draft() -> None:
    runner, proposer = setup(ToyModel(window=5), num_blocks=2)
    assert runner.kv_cache.claim(runner.kv_cache.new(), 1, 0, 100)
    simulation = Simulation(proposer, runner, prompt(20), Speculation(), 3)
    simulation.prefill(1000)
    proposer.propose([simulation.sequence])
    assert simulation.sequence.draft is NO_DRAFT
    with pytest.raises(CapacityError, match="no free KV blocks"):
        proposer.draft_logits(simulation.sequence, "exact")


def test_a_long_catch_up_fits_into_few_blocks() -> None:
    # Three windows of rows are 5 blocks; stretch by stretch, three are enough.
    runner, proposer = setup(ToyModel(window=100), max_rows=30)
    simulation = Simulation(proposer, runner, prompt(900), Speculation(), 3)
    simulation.prefill(1000)
    most = 0
    claim = runner.kv_cache.claim

    def counting(kv, group, start, end):
        nonlocal most
        is_claimed = claim(kv, group, start, end)
        most = max(most, runner.kv_cache.num_held(kv, 1))
        return is_claimed

    runner.kv_cache.claim = counting
    simulation.propose_and_check()
    assert most <= 4


def test_blocks_are_given_back_as_the_window_moves_on() -> None:
    simulation = simulate(ToyModel(window=20), "exact", 3, 30)
    for _ in range(60):
        simulation.commit(simulation.propose_and_check(), 3)
    assert simulation.runner.kv_cache.num_held(simulation.sequence.kv, 1) <= 3


def test_a_draft_leaves_room_for_the_last_token() -> None:
    runner, proposer = setup(ToyModel())
    simulation = Simulation(proposer, runner, prompt(9), Speculation(), 3, max_new_tokens=3)
    simulation.prefill(9)
    proposer.propose([simulation.sequence])
    assert len(simulation.sequence.draft.token_ids) == 2
    simulation.commit((), 0)
    simulation.commit((), 0)
    proposer.propose([simulation.sequence])
    assert simulation.sequence.draft is NO_DRAFT


def test_a_draft_ends_where_the_text_would() -> None:
    runner, proposer = setup(ToyModel())
    simulation = Simulation(proposer, runner, prompt(9), Speculation(), 3)
    simulation.prefill(9)
    second = simulation.propose_and_check()[1]
    request = simulation.sequence.request
    simulation.sequence.request = type(request)(
        0, request.prompt_ids, request.params, request.speculation, 0, 100, frozenset([second]), depth=3
    )
    proposer.propose([simulation.sequence])
    assert len(simulation.sequence.draft.token_ids) == 2


def test_prompts_in_progress_do_not_draft() -> None:
    runner, proposer = setup(ToyModel())
    simulation = Simulation(proposer, runner, prompt(9), Speculation(), 3)
    proposer.propose([simulation.sequence])
    assert simulation.sequence.draft is NO_DRAFT and runner.num_passes == 0


def test_drafts_are_sampled_with_the_targets_noise_and_filters() -> None:
    runner, proposer = setup(ToyModel())
    params = {"temperature": 0.9, "top_k": 7, "top_p": 0.9, "repetition_penalty": 1.3, "frequency_penalty": 0.4}
    simulation = Simulation(proposer, runner, prompt(30), Speculation(), 3, **params)
    simulation.prefill(9)
    for _ in range(10):
        proposer.propose([simulation.sequence])
        sequence, draft = simulation.sequence, simulation.sequence.draft
        state, tokens = SamplerState.of(sequence), list(sequence.token_ids)
        logits = proposer.draft_logits(sequence, "exact")  # of the first draft token: the rest follows greedy tokens
        sampled = Sampler().sample(logits[0], state, len(tokens))
        assert (sampled.token_id, sampled.margin) == (draft.token_ids[0], draft.confidence[0])
        simulation.commit(draft.token_ids, 1)


@pytest.mark.parametrize("chain", CHAINS)
def test_draft_logits_are_those_of_the_greedy_draft(chain: str) -> None:
    simulation = simulate(ToyModel(window=5), chain, 0, 40)
    logits = simulation.proposer.draft_logits(simulation.sequence, chain)
    expected, margins = naive_draft(simulation.runner.model, simulation.sequence.token_ids, chain, 3)
    assert logits.shape == (3, VOCAB)
    assert logits.argmax(axis=1).tolist() == expected
    top = np.sort(logits, axis=1)
    assert [float(row[-1]) - float(row[-2]) for row in top] == margins
