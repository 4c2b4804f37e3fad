"""Contracts I2 and I3 where everything happens at once: requests that come when they like, of all lengths, drafted from
every source by the one price, with prompts cut by time; each has the text that it has alone and without drafts."""

import numpy as np
import pytest

from stepahead import LLM, SamplingParams, Speculation
from stepahead.job import Job
from stepahead.speculative.cost import CostSeed
from support.backends import VECTOR_TABLES, load

FREE = CostSeed((1, 2, 16), (10.0, 10.01, 10.1), (0.0,) * 3, 0.0, (0.01, 0.01, 0.01), 0.0, 0.0)
"""Drafts cost nothing, so that all of them are tried."""

FEW = {10: 30.0, 11: 30.0, 12: 30.0}
"""A text of three tokens, which repeats itself."""

MODES = (
    Speculation(),
    Speculation(),
    Speculation(depth=2),
    Speculation("mtp", 3, adaptive=False),
    Speculation("mtp"),
    Speculation("copy"),
    Speculation("off"),
)


def request(rng: np.random.Generator) -> tuple[list[int], SamplingParams, Speculation]:
    part = rng.integers(0, 256, int(rng.integers(1, 40))).tolist()
    prompt = (part * 4)[: int(rng.integers(1, 120))] if rng.random() < 0.5 else part
    params = SamplingParams(
        max_tokens=int(rng.integers(1, 40)),
        temperature=float(rng.choice([0.0, 0.7, 1.0])),
        seed=int(rng.integers(1000)),
        ignore_eos=True,
        logit_bias=FEW if rng.random() < 0.4 else {},
        frequency_penalty=float(rng.choice([0.0, 0.4])),
    )
    return prompt, params, MODES[int(rng.integers(len(MODES)))]


def serve(llm: LLM, jobs: list[Job], rng: np.random.Generator) -> None:
    """Each comes after some steps of those before it."""
    llm._arbiter.prepare()
    waiting, by_id = list(jobs), {job.request.request_id: job for job in jobs}
    while waiting or llm._engine.has_unfinished:
        while waiting and rng.random() < 0.3:
            job = waiting.pop(0)
            job.sequence = llm._engine.add(job.request)
        for output in llm._engine.step():
            by_id[output.request_id].take(output, 0.0)


@pytest.mark.parametrize("model", ["f32", "q4_k"])
@pytest.mark.parametrize("max_step_ms", [None, 3.0])
def test_every_text_is_what_it_is_alone(model: str, max_step_ms: float | None, model_path, monkeypatch) -> None:
    path, table = model_path(model), VECTOR_TABLES[0]
    alone = load(path, table, monkeypatch, max_num_seqs=1)
    llm = load(path, table, monkeypatch, max_num_seqs=5, chunk_tokens=64, max_step_ms=max_step_ms)
    llm._arbiter.learner._measure = lambda: FREE
    rng, drafted, accepted, num_priced = np.random.default_rng(4), dict[str, int](), dict[str, int](), 0
    requests = [request(rng) for _ in range(40)]
    jobs = [llm._job(*one) for one in requests]
    serve(llm, jobs, rng)
    for (prompt, params, _), job in zip(requests, jobs, strict=True):
        completion = job.completion()
        assert completion.token_ids == alone.generate(prompt, params, Speculation("off")).token_ids
        assert len(completion.token_ids) == params.max_tokens
        stats = completion.speculation
        num_priced += stats.num_accepted_tokens if job.request.is_priced else 0
        for source in stats.num_draft_tokens_by_source:
            drafted[source] = drafted.get(source, 0) + stats.num_draft_tokens_by_source[source]
            accepted[source] = accepted.get(source, 0) + stats.num_accepted_tokens_by_source[source]
    assert num_priced > 20
    assert drafted.keys() == {"mtp", "copy"}
    assert all(0 < accepted[source] < drafted[source] for source in drafted), (drafted, accepted)
