"""Contracts I1, I2, I3, I5, I6 and I7, bit for bit, on every backend, table and format.

Prompts are longer than three windows, so that sliding caches have wrapped and heads start lazily.
"""

import numpy as np
import pytest

from stepahead import LLM, Completion, SamplingParams, Speculation
from support.backends import BACKENDS, VECTOR_TABLES, load

MODELS = ("f32", "q8_0", "q4_k", "q6_k")
RNG = np.random.default_rng(11)
LONG = RNG.integers(0, 256, 3 * 16 + 27).tolist()  # three windows of 16 and more
PROMPTS = [LONG, LONG[:5], LONG[10:50], LONG[3:4]]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=MODELS)
def path(request: pytest.FixtureRequest, model_path):
    return model_path(request.param)


def ids(completions: list[Completion]) -> list[list[int]]:
    return [completion.token_ids for completion in completions]


def params(temperature: float, max_tokens: int = 24, **changes: object) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=5, ignore_eos=True, **changes)


def fixed(depth: int, chain: str = "exact") -> Speculation:
    return Speculation(mode="mtp" if depth else "off", depth=depth, adaptive=False, chain=chain)


def test_any_chunking_gives_the_same_logits(path, backend: str, monkeypatch) -> None:
    """I1"""
    whole = load(path, backend, monkeypatch).logits(LONG)
    for chunk in (8, 13, 64):
        assert load(path, backend, monkeypatch, chunk_tokens=chunk).logits(LONG).tobytes() == whole.tobytes()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_gives_each_sequence_what_it_gets_alone(path, backend: str, monkeypatch, temperature: float) -> None:
    """I2, with sequences of unequal length that draft to unequal depth, and prompts that wait for the budget"""
    llm = load(path, backend, monkeypatch, chunk_tokens=16)
    alone = [llm.generate(prompt, params(temperature), fixed(0)).token_ids for prompt in PROMPTS]
    for depth in (0, 2):
        assert ids(llm.generate(PROMPTS, params(temperature), fixed(depth))) == alone


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_text_does_not_depend_on_drafts(path, backend: str, monkeypatch, temperature: float) -> None:
    """I3, I5: drafts are accepted and rejected on the way, and rejected ones leave no trace"""
    llm = load(path, backend, monkeypatch)
    filters = {} if temperature == 0 else {"top_p": 0.95, "repetition_penalty": 1.1, "frequency_penalty": 0.2}
    plain = llm.generate(LONG, params(temperature, **filters), fixed(0))
    assert plain.speculation.num_drafts == 0
    accepted = rejected = 0
    for depth in (1, 2, 3):
        for chain in ("exact", "catchup"):
            drafted = llm.generate(LONG, params(temperature, **filters), fixed(depth, chain))
            assert drafted.token_ids == plain.token_ids
            accepted += drafted.speculation.num_accepted_tokens
            rejected += drafted.speculation.num_draft_tokens - drafted.speculation.num_accepted_tokens
    assert accepted > 0 and rejected > 0


def test_a_turn_that_extends_its_own_sequence_equals_recomputing(path, backend: str, monkeypatch) -> None:
    """I6, drafts included"""
    warm = load(path, backend, monkeypatch)
    first = warm.generate(LONG, params(0.0, 20), fixed(2))
    turn = LONG + first.token_ids + LONG[:9]
    cold = load(path, backend, monkeypatch).generate(turn, params(0.0), fixed(3))
    again = warm.generate(turn, params(0.0), fixed(3))
    assert again.timings.cached_tokens > len(LONG)
    assert again.token_ids == cold.token_ids
    assert again.speculation.num_accepted_tokens_per_pos == cold.speculation.num_accepted_tokens_per_pos


@pytest.mark.parametrize("isa", ["cpu-scalar", *VECTOR_TABLES])
def test_threads_do_not_change_a_bit(path, isa: str, monkeypatch) -> None:
    """I7"""
    one = load(path, isa, monkeypatch, threads=1).logits(LONG)
    for threads in (2, 3):
        assert load(path, isa, monkeypatch, threads=threads).logits(LONG).tobytes() == one.tobytes()


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("isa", VECTOR_TABLES)
def test_tables_give_the_bits_of_scalar(path, kv_type: str, isa: str, monkeypatch) -> None:
    """I8, whole model"""
    tables = [load(path, each, monkeypatch, kv_type=kv_type).logits(LONG) for each in ("cpu-scalar", isa)]
    assert tables[0].tobytes() == tables[1].tobytes()


def test_cpu_agrees_with_the_reference(path, monkeypatch) -> None:
    """I8. A near tie in a router flips an expert, so the mean is bounded over rows, and most rows tightly."""
    cpu: LLM = load(path, VECTOR_TABLES[0], monkeypatch)
    reference: LLM = load(path, "reference", monkeypatch)
    difference = np.abs(cpu.logits(LONG) - reference.logits(LONG)).max(axis=1)
    assert np.median(difference) < 1e-3
