"""After a hit, text and drafts are those of a run that computed its whole prompt, token for token."""

import pytest

from stepahead.backends.base import BLOCK_SIZE
from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.engine import scheduler as scheduler_module
from stepahead.engine.params import Speculation
from stepahead.gguf import GGUFFile
from stepahead.models.registry import load_model
from support.draft_runs import OTHER, TEXT, WINDOW, Runs, assert_same, chain_of, cold_of


@pytest.fixture(scope="module")
def step(model_path):
    file = GGUFFile.open(model_path("f32"))
    backend = ReferenceBackend()
    return load_model(file, backend, file), backend


@pytest.fixture(scope="module")
def one_head(model_path):
    file = GGUFFile.open(model_path("f32", num_heads_mtp=1))
    backend = ReferenceBackend()
    return load_model(file, backend, file), backend


@pytest.fixture(scope="module")
def full_heads(model_path):
    file = GGUFFile.open(model_path("f32", mtp_sliding=False))
    backend = ReferenceBackend()
    return load_model(file, backend, file), backend


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("chain", ["exact", "catchup"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_drafts_after_a_hit(step, depth: int, chain: str, temperature: float) -> None:
    """At lengths of every kind, with a continuation that is not the writer's."""
    warm = Runs(step, chain_of(depth, chain), temperature)
    cold = cold_of(step, warm)
    ends = (1, depth, WINDOW, 100, 3 * WINDOW + BLOCK_SIZE, 193, 257)
    warm.run(TEXT, ends)
    for at in (1, depth, WINDOW - 1, WINDOW + 1, 64, 100, 128, 192, 257, 299):
        sequence = warm.run([*TEXT[:at], (TEXT[at] + 1) % 200, *OTHER[: at % 7]])
        assert sequence.num_cached_tokens > 0 or at == 64, at
        assert_same(warm, sequence, cold)


@pytest.mark.parametrize("chain", ["exact", "catchup"])
def test_drafts_in_the_turns_of_a_chat(step, chain: str) -> None:
    warm = Runs(step, chain_of(3, chain), 1.0)
    cold = cold_of(step, warm)
    prompt = TEXT[:150]
    for number in range(4):
        sequence = warm.run(prompt)
        assert (sequence.num_cached_tokens > 0) == (number > 0)
        assert_same(warm, sequence, cold)
        prompt = (*sequence.token_ids, *OTHER[: 3 + 5 * number])


def test_drafts_of_several_that_share_a_prompt(step) -> None:
    """At the same time, and while the writer still runs."""
    warm = Runs(step, chain_of(3), 1.0)
    cold = cold_of(step, warm)
    writer = warm.add(TEXT, num_new=40)
    while not writer.output_ids:
        warm.engine.step()
    readers = [warm.add([*TEXT, number]) for number in (1, 2, 3)]
    while warm.engine.has_unfinished:
        warm.engine.step()
    for sequence in readers:
        assert sequence.num_cached_tokens == 300
        assert_same(warm, sequence, cold)
    assert_same(warm, writer, cold)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("chain", ["exact", "catchup"])
def test_drafts_of_prompts_that_arrive_together(step, chain: str, temperature: float) -> None:
    """Those who come second go on from where the first one is read to."""
    warm = Runs(step, chain_of(3, chain), temperature)
    cold = cold_of(step, warm)
    prompts = [TEXT, TEXT, (*TEXT[:190], *OTHER), (*TEXT[:190], *OTHER[:9])]
    sequences = [warm.add(prompt) for prompt in prompts]
    while warm.engine.has_unfinished:
        warm.engine.step()
    assert [sequence.num_cached_tokens for sequence in sequences] == [0, 299, 190, 190]
    for sequence in sequences:
        assert_same(warm, sequence, cold)


def test_drafts_after_an_abort_within_a_prompt(step, monkeypatch) -> None:
    monkeypatch.setattr(scheduler_module, "SNAPSHOT_TOKENS", 100)
    warm = Runs(step, chain_of(3), 0.0)
    cold = cold_of(step, warm)
    sequence = warm.add(TEXT)
    while sequence.num_computed_tokens < 250:
        warm.engine.step()
    warm.engine.abort(sequence.request.request_id)
    again = warm.run(TEXT)
    assert again.num_cached_tokens == 200
    assert_same(warm, again, cold)


def test_a_request_that_never_drafts_leaves_nothing_for_one_that_does(step) -> None:
    warm = Runs(step, chain_of(3), 0.0)
    warm.speculation = Speculation(mode="off", depth=0)
    warm.run(TEXT)
    assert warm.run(TEXT).num_cached_tokens == 299
    warm.speculation = chain_of(3)
    sequence = warm.run(TEXT)
    assert sequence.num_cached_tokens == 0
    assert_same(warm, sequence, cold_of(step, warm))
    assert warm.run(TEXT).num_cached_tokens == 299


@pytest.mark.parametrize("kind", ["one_head", "full_heads"])
def test_drafts_of_other_heads(kind: str, request: pytest.FixtureRequest) -> None:
    """One head for every draft token; heads that see everything, and so want every hidden row."""
    model = request.getfixturevalue(kind)
    warm = Runs(model, chain_of(3), 0.0)
    cold = cold_of(model, warm)
    warm.run(TEXT, (100, 193))
    for at in (50, 100, 150, 193, 290):
        sequence = warm.run([*TEXT[:at], *OTHER[:5]])
        assert sequence.num_cached_tokens > 0 or at in (50, 150), at
        assert_same(warm, sequence, cold)


def test_hidden_rows_are_shared_between_snapshots(step) -> None:
    runs = Runs(step, chain_of(3), 0.0)
    first, second, third = (list(hidden.blocks) for hidden in _hidden_of(runs, (70, 150)))
    assert [block.first for block in third] == [128, 192, 256]
    assert first[0] is second[0] and second[1] is not first[1]
    assert third[0] is not second[2]  # 22 rows then, 64 now
    assert len({id(block) for block in (*first, *second, *third)}) == 7


def _hidden_of(runs: Runs, positions):
    snapshots = []
    publish = runs.engine.scheduler.prefix_cache.publish
    runs.engine.scheduler.prefix_cache.publish = lambda snapshot, *rest: (
        snapshots.append(snapshot),
        publish(snapshot, *rest),
    )
    runs.run(TEXT, positions, num_new=1)
    return [snapshot.hidden for snapshot in snapshots]
