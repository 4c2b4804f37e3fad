"""Contract I3 with proposers that need no heads, on a real model: garbage, perfect drafts, and copies."""

from collections.abc import Iterable
from collections.abc import Sequence as Seq

import numpy as np
import pytest

from stepahead import LLM, Completion, SamplingParams, Speculation
from stepahead.engine.request import NO_DRAFT, Draft, Sequence
from stepahead.speculative.copy import CopyProposer
from stepahead.speculative.proposer import NoProposer
from support.backends import load

PROMPTS = [np.random.default_rng(3).integers(0, 256, size).tolist() for size in (75, 4, 20)]
WIDEST = 8


class Oracle(NoProposer):
    """Drafts what `texts` says, by prompt; spoils every token that `wrong` picks."""

    def __init__(self, texts: dict[tuple[int, ...], list[int]], wrong: Seq[int] = ()) -> None:
        self.texts = texts
        self.wrong = set(wrong)

    def propose(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            done = sequence.num_output_tokens
            length = min(WIDEST, sequence.num_remaining_tokens - 1) if sequence.is_decoding else 0
            ids = self.texts[sequence.request.prompt_ids][done : done + length]
            ids = [(token + 1) % 256 if n in self.wrong else token for n, token in enumerate(ids)]
            sequence.draft = Draft(tuple(ids), (0.0,) * len(ids), "oracle") if ids else NO_DRAFT


def run(llm: LLM, proposer: NoProposer | None, temperature: float) -> list[Completion]:
    if proposer is not None:
        llm._engine.proposer = proposer
    params = SamplingParams(max_tokens=30, temperature=temperature, seed=9, ignore_eos=True, presence_penalty=0.3)
    return llm.generate(PROMPTS, params, Speculation(mode="off"))


@pytest.mark.parametrize("backend", ["reference", "cpu-avx2"])
@pytest.mark.parametrize("model", ["f32", "q4_k"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_text_does_not_depend_on_the_proposer(
    model: str, backend: str, temperature: float, model_path, monkeypatch
) -> None:
    llm = load(model_path(model), backend, monkeypatch)
    plain = run(llm, None, temperature)
    texts = {tuple(prompt): out.token_ids for prompt, out in zip(PROMPTS, plain, strict=True)}
    for wrong in [(), range(WIDEST), (0,), (1,), (3, 5)]:
        drafted = run(llm, Oracle(texts, wrong), temperature)
        assert [out.token_ids for out in drafted] == [out.token_ids for out in plain]
        for out in drafted:
            per_pos = out.speculation.num_accepted_tokens_per_pos
            first_wrong = min(wrong, default=WIDEST)
            assert not any(per_pos[first_wrong:])
            if not wrong:  # perfect: everything drafted is accepted
                assert out.speculation.num_accepted_tokens == out.speculation.num_draft_tokens > 20
                assert out.timings.num_steps < 6


@pytest.mark.parametrize("backend", ["reference", "cpu-avx2"])
@pytest.mark.parametrize("model", ["f32", "q4_k"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_text_does_not_depend_on_copies(model: str, backend: str, temperature: float, model_path, monkeypatch) -> None:
    """Three tokens are all the text has, so that it repeats itself, now and then as it did before."""
    llm = load(model_path(model), backend, monkeypatch)
    few = {10: 30.0, 11: 30.0, 12: 30.0}
    params = SamplingParams(
        max_tokens=60, temperature=temperature, seed=9, ignore_eos=True, logit_bias=few, frequency_penalty=0.5
    )
    plain = llm.generate(PROMPTS, params, Speculation(mode="off"))
    llm._engine.proposer = CopyProposer()
    for depth in (None, 1, 6):
        copied = llm.generate(PROMPTS, params, Speculation(mode="copy", depth=depth))
        assert [out.token_ids for out in copied] == [out.token_ids for out in plain]
        drafted = sum(out.speculation.num_draft_tokens for out in copied)
        accepted = sum(out.speculation.num_accepted_tokens for out in copied)
        assert 0 < accepted < drafted
        longest = max(len(out.speculation.num_draft_tokens_per_pos) for out in copied)
        assert longest == (depth or 15)
