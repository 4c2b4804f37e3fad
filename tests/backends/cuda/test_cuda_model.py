"""A whole model on the GPU backend: close to the CPU's, and exact against itself. Smallest shapes in the interpreter;
with a GPU, the models and prompts of tests/invariants."""

import os
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("triton")

from backends.cuda.exact_dots import exact_dots
from stepahead import LLM, BackendError, Completion, ConfigError, SamplingParams, Speculation
from stepahead.cli.loading import summary
from stepahead.gguf import QuantType
from stepahead.opening import prefix_identity
from support.random_step35 import Shape

# Of numpy, in whose place the interpreter divides what is masked.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
HAS_GPU = os.environ["TRITON_INTERPRET"] == "0"
SMALLEST = Shape(
    hidden=64, head_dim=32, num_trunk=2, num_heads_mtp=2, heads_full=2, heads_sliding=2, num_kv_heads=1, width=64,
    num_experts=4, expert_width=32, shared_width=32, vocab=320, window=8, full_period=2, type=QuantType.Q8_0,
)  # fmt: skip
PROMPT = np.random.default_rng(3).integers(0, 256, 96 if HAS_GPU else 11).tolist()
NUM_TOKENS = 48 if HAS_GPU else 5
NEAR = 0.02
"""Of the largest logit: what activations of 11 bits here and of 8 bits there make of a model of random weights."""


def load(path: object, device: str = "cuda", **changes: object) -> LLM:
    settings = {"kv_type": "f32", "context_length": 256, "max_num_seqs": 2, "chunk_tokens": 64, **changes}
    return LLM(path, device=device, **settings)


@pytest.fixture(scope="module")
def llm(model_path) -> Iterator[LLM]:
    with exact_dots(), load(model_path("q4_k" if HAS_GPU else SMALLEST)) as llm:
        yield llm


def generate(llm: LLM, depth: int, temperature: float = 0.0) -> Completion:
    params = SamplingParams(max_tokens=NUM_TOKENS, temperature=temperature, seed=5, ignore_eos=True)
    return llm.generate(PROMPT, params, Speculation("mtp" if depth else "off", depth=depth, adaptive=False))


def test_logits_are_the_cpus_within_their_budget(llm: LLM) -> None:
    with load(llm.info.path, "cpu") as cpu:
        expected = cpu.logits(PROMPT)
    actual = llm.logits(PROMPT)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() < NEAR * np.abs(expected).max()


def test_a_prompt_in_other_chunks_has_the_same_bits(llm: LLM) -> None:
    """I1"""
    whole = llm.logits(PROMPT)
    for chunk in (7, 16) if HAS_GPU else (7,):
        assert np.concatenate(list(llm.logits_in_chunks(PROMPT, chunk))).tobytes() == whole.tobytes()


def test_text_does_not_depend_on_drafts(llm: LLM) -> None:
    """I3, I5: some drafts are accepted, and some are not."""
    plain = generate(llm, 0)
    counts = np.zeros(2, int)
    for depth in (1, 2, 3) if HAS_GPU else (2,):
        drafted = generate(llm, depth)
        assert drafted.token_ids == plain.token_ids
        stats = drafted.speculation
        counts += stats.num_accepted_tokens, stats.num_draft_tokens - stats.num_accepted_tokens
    assert counts.all(), counts


@pytest.mark.skipif(not HAS_GPU, reason="takes half a minute in the interpreter")
@pytest.mark.parametrize("name", ["f32", "q8_0", "q4_k", "q6_k"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_neighbours_and_drafts_change_nothing(model_path, name: str, temperature: float) -> None:
    """I2, I3, I6 at once: prompts of unequal lengths side by side, with and without drafts, and prefixes kept."""
    prompts = [PROMPT, PROMPT[:5], PROMPT[10:50], PROMPT[3:4]]
    params = SamplingParams(max_tokens=NUM_TOKENS, temperature=temperature, seed=5, ignore_eos=True)
    with load(model_path(name), max_num_seqs=4, chunk_tokens=16) as llm:
        alone = [llm.generate(prompt, params, Speculation("off")).token_ids for prompt in prompts]
        for depth in (0, 2, 3):
            speculation = Speculation("mtp" if depth else "off", depth=depth, adaptive=False)
            assert [done.token_ids for done in llm.generate(prompts, params, speculation)] == alone


def test_it_says_what_it_runs_on(llm: LLM) -> None:
    facts = llm.backend.describe()
    assert facts["backend"] == "cuda"
    assert (facts["isa"] == "interpreter") is not HAS_GPU
    assert facts["device"] and facts["triton"] in facts["numerics"]
    assert llm.config.device == "cuda:0"
    assert not llm.repacked
    assert llm.memory.file_nbytes == 0
    assert summary(llm).endswith(f"{facts['device']} ({facts['isa']})")


def test_prefixes_are_kept_for_the_like_of_it_alone(llm: LLM, model_path) -> None:
    with load(llm.info.path, "cpu") as cpu:
        identities = {prefix_identity(each.config, each._file, each._runner) for each in (llm, cpu)}
    assert len(identities) == 2
    assert sum(llm.backend.describe()["numerics"] in identity for identity in identities) == 1


def test_a_gpu_has_no_threads_to_give(llm: LLM) -> None:
    assert llm.threads == 1
    llm.threads = 1
    with pytest.raises(ConfigError, match="threads=2: there are none to give"):
        llm.threads = 2


@pytest.mark.skipif(not HAS_GPU, reason="the interpreter is one device, whatever its number")
def test_a_gpu_that_is_not_there(model_path) -> None:
    with pytest.raises(BackendError, match=r"device='cuda:99': there are \d+ GPUs"):
        load(model_path("f32"), "cuda:99")
