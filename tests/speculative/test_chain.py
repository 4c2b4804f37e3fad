"""Chains whose tokens the backend chooses and passes on: the drafts of passes that wait for the host, and nothing stale
where the host has to choose after all."""

import numpy as np
import pytest

from stepahead.backends.cpu.ops import CpuBackend
from stepahead.engine.params import Speculation
from stepahead.gguf import GGUFFile
from stepahead.models.registry import load_model
from support.choosing_backend import Choosing
from support.draft_runs import Runs, chain_of

PROMPTS = tuple(tuple(np.random.default_rng(seed).integers(0, 250, 20 + seed).tolist()) for seed in range(3))


def runs_of(path, backend: CpuBackend, speculation: Speculation, temperature: float = 0.0) -> Runs:
    file = GGUFFile.open(path)
    return Runs((load_model(file, backend, file), backend), speculation, temperature)


def run(runs: Runs, num_new: int = 24) -> tuple[list[list[int]], dict[tuple[int, int], tuple[int, ...]]]:
    sequences = [runs.add(prompt, num_new=num_new + len(prompt) % 3) for prompt in PROMPTS]
    while runs.engine.has_unfinished:
        runs.engine.step()
    return [sequence.output_ids for sequence in sequences], runs.proposer.drafts


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_chain_drafts_what_single_passes_draft(model_path, depth: int) -> None:
    expected = run(runs_of(model_path("f32"), CpuBackend(threads=1), chain_of(depth)))
    backend = Choosing()
    assert run(runs_of(model_path("f32"), backend, chain_of(depth))) == expected
    assert ("passed on" in backend.events) == (depth > 1)


def test_nobody_waits_between_the_passes_of_a_chain(model_path) -> None:
    backend = Choosing()
    runs = runs_of(model_path("f32"), backend, chain_of(3))
    runs.run(PROMPTS[0])
    events = "".join("," if event == "heard" else "p" for event in backend.events)
    chains = [chain for chain in events.split(",") if chain]
    assert chains and set(chains) <= {"ppp", "pp"}, "the last draft of a text may be short"
    assert chains[0] == "ppp"


@pytest.mark.parametrize("every", [2, 3, 5])
def test_a_token_that_the_host_has_to_choose_ends_the_draft(model_path, every: int) -> None:
    texts, expected = run(runs_of(model_path("f32"), CpuBackend(threads=1), chain_of(3)))
    backend = Choosing(lambda position: position % every != 0)
    others, drafts = run(runs_of(model_path("f32"), backend, chain_of(3)))
    assert others == texts
    shorter = 0
    for at in expected.keys() & drafts.keys():
        assert expected[at][: len(drafts[at])] == drafts[at]
        shorter += len(drafts[at]) < len(expected[at])
    assert shorter


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_heads_go_on_rightly_after_tokens_of_the_host(model_path, temperature: float) -> None:
    """Where a draft ends early, what later heads have made of the token that was none must be gone."""
    plain = runs_of(model_path("f32"), CpuBackend(threads=1), chain_of(3), temperature)
    backend = Choosing(lambda position: position % 4 == 0)
    chained = runs_of(model_path("f32"), backend, chain_of(3), temperature)
    texts, expected = run(plain, 40)
    others, drafts = run(chained, 40)
    assert others == texts
    common = expected.keys() & drafts.keys()
    assert len(common) > 10
    for at in common:
        assert expected[at][: len(drafts[at])] == drafts[at]
