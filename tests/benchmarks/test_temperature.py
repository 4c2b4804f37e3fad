"""Acceptance at temperature: known distributions, greedy as the limit, and an engine that drafts as it is said to."""

from collections.abc import Iterator

import numpy as np
import pytest

from benchmarks import temperature
from benchmarks.every_row import EveryRow, Rows
from benchmarks.temperature import ARGMAX, CEILING, REJECTION, SHARED, chances_of, main, measure, schemes
from stepahead import LLM, SamplingParams, Speculation
from stepahead.engine.sampler import Sampled, Sampler, SamplerState

SAMPLER = Sampler()


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM.demo(threads=1, max_num_seqs=1) as llm:
        yield llm


@pytest.fixture(autouse=True)
def one_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temperature, "KINDS", ("code",))


class Argmax(Sampler):
    """Drafts a head's likeliest token, whatever the noise."""

    def sample(self, logits, state, position, shortlist=None) -> Sampled:
        return Sampled(int(logits.argmax()), 1.0)


def test_chances_average_to_what_the_distributions_say() -> None:
    target, head = np.log(np.float32([0.5, 0.3, 0.2])), np.log(np.float32([0.1, 0.8, 0.1]))
    params = SamplingParams(temperature=1.0)
    found = []
    for token in range(3):  # the text's token, drawn from the target
        rows = Rows([0, token, 0], 0, np.stack([target, target]), [np.stack([head, head])], [])
        chances = chances_of(rows, SAMPLER, SamplerState(params, seed=0))
        assert chances.overlap[0, 0] == pytest.approx(0.1 + 0.3 + 0.1)
        assert np.isnan(chances.shared[1, 0])  # the last token is the trunk's
        found.append((chances.argmax[0, 0], chances.rejection[0, 0]))
    by_token = np.array(found)
    assert by_token[:, 0].tolist() == [0, 1, 0]
    assert [0.5, 0.3, 0.2] @ by_token == pytest.approx([0.3, 0.5])  # target[argmax], and the overlap


def test_shared_noise_is_the_samplers_own_choice() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(2, 40)).astype(np.float32)
    state = SamplerState(SamplingParams(temperature=1.0), seed=1)
    token = SAMPLER.sample(logits[0], state, 7).token_id
    assert token != logits[0].argmax()
    rows = Rows([*[0] * 7, token, 0], 6, logits, [logits], [])
    chances = chances_of(rows, SAMPLER, state)
    assert (chances.shared[0, 0], chances.argmax[0, 0]) == (1, 0)


def test_without_temperature_all_schemes_are_one(llm: LLM) -> None:
    for counts in measure(llm, 0.0, 1, 24):
        for name in (ARGMAX, REJECTION, CEILING):
            assert counts[name].reached.tolist() == counts[SHARED].reached.tolist()
            assert counts[name].accepted.tolist() == counts[SHARED].accepted.tolist()


def test_argmax_drafts_are_accepted_as_an_engine_accepts_them(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm._mtp, "_sampler", Argmax())
    params = SamplingParams(60, 0.9, top_p=0.95, seed=4, ignore_eos=True)
    ids = llm.tokenize("def area(width, height):\n    return width")
    completion = llm.generate(ids, params, Speculation("mtp", adaptive=False))
    every = EveryRow(llm)
    rows = every.run([*ids, *completion.token_ids], len(ids), every.num_heads)
    found = schemes(chances_of(rows, SAMPLER, SamplerState(params, 4)))
    stats = completion.speculation
    assert found[ARGMAX].accepted.tolist() == stats.num_accepted_tokens_per_pos
    assert found[ARGMAX].reached[0] == stats.num_draft_tokens_per_pos[0]
    assert found[SHARED].accepted.tolist() != stats.num_accepted_tokens_per_pos


def test_figures_that_are_not_the_engines_are_refused(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm._mtp, "_sampler", Argmax())
    with pytest.raises(AssertionError, match="other draft tokens"):
        measure(llm, 1.0, 1, 24)


def test_the_command_prints_every_scheme(capsys) -> None:
    assert main(["--cuts", "1", "--tokens", "8", "--threads", "1", "--temperatures", "0", "1"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("stepahead-demo, 3 texts of 8 tokens")
    assert [text.count(name) for name in (SHARED, ARGMAX, REJECTION, CEILING)] == [2, 1, 1, 1]
    assert main(["--cuts", "0"]) == 2
    assert capsys.readouterr().err.startswith("temperature: give at least 1")
