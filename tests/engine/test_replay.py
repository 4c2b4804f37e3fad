"""A recorded text in the place of the target's choices: it comes back whole, and is drafted as often as asked for."""

import numpy as np
import pytest

from stepahead import LLM, Completion, RequestError, SamplingParams, Speculation
from stepahead.engine.replay import FORCED_MARGIN, Replay
from stepahead.engine.request import Sequence
from stepahead.speculative.mtp import MtpProposer

RNG = np.random.default_rng(17)
PROMPT = RNG.integers(0, 256, 40).tolist()
RECORDING = RNG.integers(0, 256, 90).tolist()
WARM = SamplingParams(temperature=0.8, top_p=0.9, seed=3, repetition_penalty=1.1)
RATES = (0.8, 0.6, 0.45)


def fixed(depth: int, chain: str = "exact") -> Speculation:
    return Speculation("mtp" if depth else "off", depth, adaptive=False, chain=chain)


def accepted(completion: Completion) -> list[int]:
    return completion.speculation.num_accepted_tokens_per_pos


@pytest.fixture(scope="module")
def llm(model_path) -> LLM:
    return LLM(model_path("f32"), threads=1, context_length=1024)


@pytest.mark.parametrize("params", [None, WARM], ids=["greedy", "sampled"])
@pytest.mark.parametrize("rates", [None, RATES])
def test_the_recording_comes_back_whatever_is_drafted(llm, params, rates):
    settings = [fixed(0), Speculation("auto"), *(fixed(n, chain) for n in (1, 2, 3) for chain in ("exact", "catchup"))]
    for speculation in settings:
        played = llm.replay(PROMPT, RECORDING, speculation, params, rates)
        assert played.token_ids == RECORDING
        assert played.prompt_token_ids == PROMPT
        assert played.text == llm.detokenize(RECORDING)
        assert played.finish_reason == "length"
        assert played.timings.num_steps + played.speculation.num_accepted_tokens == len(RECORDING)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_run_replayed_is_that_run(llm, temperature):
    params = SamplingParams(max_tokens=80, temperature=temperature, seed=8, ignore_eos=True)
    run = llm.generate(PROMPT, params, fixed(3))
    played = llm.replay(PROMPT, run.token_ids, fixed(3), params)
    assert played.token_ids == run.token_ids
    assert accepted(played) == accepted(run)
    assert played.timings.num_steps == run.timings.num_steps


def test_acceptance_is_the_recordings_own(llm):
    run = llm.generate(PROMPT, SamplingParams(max_tokens=80, ignore_eos=True), fixed(3))
    own = llm.replay(PROMPT, run.token_ids, fixed(3)).speculation
    other = llm.replay(PROMPT, RECORDING[:80], fixed(3)).speculation
    assert own.num_accepted_tokens > 2 * other.num_accepted_tokens


def test_drafts_are_right_as_often_as_asked_for(llm):
    text = RNG.integers(0, 256, 900).tolist()
    for depth in (1, 2, 3):
        stats = llm.replay(PROMPT, text, fixed(depth), SamplingParams(seed=1), RATES).speculation
        pairs = zip(stats.num_accepted_tokens_per_pos, stats.num_draft_tokens_per_pos, strict=True)
        shares = [accepted / drafted for accepted, drafted in pairs]
        assert shares == pytest.approx(RATES[:depth], abs=0.06)
    always = llm.replay(PROMPT, text[:301], fixed(3), rates=[1, 1, 1])
    assert always.timings.num_steps == 1 + 300 // 4
    assert llm.replay(PROMPT, text[:50], fixed(3), rates=(0.0,)).speculation.num_accepted_tokens == 0


def test_the_same_seed_forces_the_same_drafts(llm):
    runs = [accepted(llm.replay(PROMPT, RECORDING, fixed(3), SamplingParams(seed=seed), RATES)) for seed in (5, 5, 6)]
    assert runs[0] == runs[1] != runs[2]


def test_a_replay_leaves_nothing_behind(llm):
    params = SamplingParams(max_tokens=30, ignore_eos=True)
    before = llm.generate(PROMPT, params, fixed(0)).token_ids
    llm.replay(PROMPT, RECORDING, fixed(3), rates=RATES)
    # A turn that goes on after a replay starts from its rows.
    turn = [*PROMPT, *RECORDING, 7]
    again = llm.generate(turn, params, fixed(3))
    assert again.timings.cached_tokens > len(PROMPT)
    assert llm.generate(PROMPT, params, fixed(3)).token_ids == before
    llm.logits(PROMPT)  # forgets what is cached
    assert llm.generate(turn, params, fixed(0)).token_ids == again.token_ids


def test_text_is_cut_at_the_joint_and_has_no_bos(llm):
    prompt, text = "def add(a, b):", "\n    return a + b\n"
    played = llm.replay(prompt, text)
    assert played.text == text
    assert played.token_ids == llm.tokenizer.encode(text, add_bos=False)
    assert played.prompt_token_ids == llm.tokenize(prompt)


def test_end_tokens_in_a_recording_end_nothing(llm):
    recording = [65, min(llm.tokenizer.end_ids), 66]
    assert llm.replay(PROMPT, recording, fixed(2)).token_ids == recording


def test_max_tokens_cuts_the_recording(llm):
    assert llm.replay(PROMPT, RECORDING, params=SamplingParams(max_tokens=7)).token_ids == RECORDING[:7]


def test_a_stream_of_a_replay_has_a_chunk_a_step(llm):
    chunks = list(llm.stream_replay(PROMPT, RECORDING, fixed(2)))
    assert [token for chunk in chunks for token in chunk.token_ids_delta] == RECORDING
    assert chunks[-1].completion is not None
    assert len(chunks) == chunks[-1].completion.timings.num_steps


def test_forced_margins_say_nothing_but_the_position(llm, monkeypatch):
    seen: list[float] = []

    def propose(self, sequences: list[Sequence], inner=MtpProposer.propose) -> None:
        inner(self, sequences)
        seen.extend(margin for sequence in sequences for margin in sequence.draft.confidence)

    monkeypatch.setattr(MtpProposer, "propose", propose)
    llm.replay(PROMPT, RECORDING, fixed(2), rates=RATES)
    assert len(seen) > 50 and set(seen) == {FORCED_MARGIN}
    seen.clear()
    llm.replay(PROMPT, RECORDING, fixed(2))
    assert len(set(seen)) > 50


WRONG = [
    ({"continuation": []}, "no tokens"),
    ({"continuation": ""}, "no tokens"),
    ({"continuation": None}, "NoneType"),
    ({"continuation": [True]}, "bool"),
    ({"continuation": [1.5]}, "float"),
    ({"continuation": [10**6]}, "out of range"),
    ({"continuation": [0] * 2000}, "the recording 2000, the context 1024"),
    ({"prompt": []}, "the prompt has no tokens"),
    ({"prompt": None}, "NoneType"),
    ({"rates": ()}, "not a tuple of shares"),
    ({"rates": 0.5}, "not a tuple of shares"),
    ({"rates": "ab"}, "rates[0]='a'"),
    ({"rates": (0.5, 0.6)}, "rates[1]=0.6 is above the 0.5"),
    ({"rates": (1.5,)}, "rates[0]=1.5"),
    ({"rates": (float("nan"),)}, "rates[0]=nan"),
    ({"rates": (True,)}, "rates[0]=True"),
    ({"params": SamplingParams(stop="x")}, "stop="),
    ({"params": SamplingParams(stop_token_ids=[3])}, "stop_token_ids="),
    ({"speculation": fixed(9)}, "depth=9"),
]


@pytest.mark.parametrize(("changes", "fragment"), WRONG)
def test_what_cannot_be_replayed_is_refused(llm, changes, fragment):
    with pytest.raises(RequestError) as caught:
        llm.replay(**{"prompt": PROMPT, "continuation": RECORDING, **changes})
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_forced_draft_is_right_or_wrong_never_by_chance():
    recording = tuple(range(50))
    replay = Replay(recording, 100, (0.5, 0.5, 0.0, 0.0), seed=2)
    drafted = [replay.draft(100 + n, 0, n, 300) for n in range(50)]  # the head is always right
    wrong = [token for n, token in enumerate(drafted) if token != n]
    assert 10 < len(wrong) < 40
    assert all(token == n + 1 for n, token in enumerate(drafted) if token != n)
    assert all(replay.draft(100 + n, 1, 299, 300) == n for n in range(50))  # 0.5 / 0.5
    assert all(replay.draft(100 + n, index, n, 300) != n for n in range(50) for index in (2, 3, 4, 9))
    assert replay.draft(149, 2, 49, 50) == 0  # another token of the vocabulary
    assert replay.target(150, 7) == replay.target(99, 7) == 7  # nothing is recorded there
