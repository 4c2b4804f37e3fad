"""Experts that stay in the host's memory: the CPU's bits, the promises of a whole model, and what goes wrong there."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("triton")
import torch

from backends.cuda.exact_dots import exact_dots
from stepahead import LLM, BackendError, Completion, ConfigError, SamplingParams, Speculation
from stepahead.backends.base import ON_HOST, PLAIN
from stepahead.backends.cpu.layouts import PANELS, preferred_layout
from stepahead.backends.cpu.ops import CpuBackend, resolve_isa
from stepahead.backends.cuda.device import Device
from stepahead.backends.cuda.host_experts import PendingRows
from stepahead.backends.cuda.ops import CudaBackend
from stepahead.backends.cuda.routing import Routing
from stepahead.gguf import QuantType, quantize
from stepahead.models.layers import expert_tensors
from stepahead.opening import prefix_identity
from stepahead.repack import repacked
from support.random_step35 import Shape, quantised

# Of numpy, in whose place the interpreter divides what is masked.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
HAS_GPU = os.environ["TRITON_INTERPRET"] == "0"
# A dense layer, and two with experts.
SMALLEST = Shape(
    hidden=64, head_dim=32, num_trunk=3, num_heads_mtp=1, heads_full=2, heads_sliding=2, num_kv_heads=1, width=64,
    num_experts=4, expert_width=32, shared_width=32, vocab=320, window=8, full_period=3, type=QuantType.Q8_0,
)  # fmt: skip
PROMPT = np.random.default_rng(3).integers(0, 256, 96 if HAS_GPU else 6).tolist()
NUM_TOKENS = 48 if HAS_GPU else 3
NEAR = 0.02
"""Of the largest logit, as of a model that is whole on the GPU."""

NUM_EXPERTS, WIDTH, HIDDEN, TOP_K = 6, 96, 64, 3


# --- the op ---
class Experts:
    """The same ones for a GPU's host and for a CPU."""

    def __init__(self, type: QuantType) -> None:
        rng = np.random.default_rng(2)
        self.gpu, self.cpu = CudaBackend(threads=1), CpuBackend(threads=1)
        shapes = [(NUM_EXPERTS, WIDTH, HIDDEN), (NUM_EXPERTS, WIDTH, HIDDEN), (NUM_EXPERTS, HIDDEN, WIDTH)]
        weights = [(quantize(rng.standard_normal(shape, np.float32), type), type, shape) for shape in shapes]
        self.on_host = [self.gpu.load_matrix(*each, ON_HOST + PLAIN) for each in weights]
        self.on_cpu = [self.cpu.load_matrix(*each) for each in weights]

    def begun(self, x: np.ndarray, logits: np.ndarray) -> PendingRows:
        gpu = self.gpu
        gpu.begin_step()
        routing = gpu.moe_route(gpu.upload(logits), None, TOP_K, True, 2.5)
        return gpu.moe_ffn(gpu.upload(x), routing, *self.on_host, 0.5)

    def __call__(self, x: np.ndarray, logits: np.ndarray) -> np.ndarray:
        return self.gpu.download(self.begun(x, logits)).copy()


@pytest.fixture(scope="module")
def experts() -> Experts:
    return Experts(QuantType.Q8_0)


def rows(count: int, seed: int = 5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, HIDDEN), np.float32), rng.standard_normal((count, NUM_EXPERTS), np.float32)


@pytest.mark.parametrize("type", [QuantType.Q8_0, QuantType.F16])
def test_the_bits_are_the_cpus(type: QuantType) -> None:
    both, (x, logits) = Experts(type), rows(5)
    actual = both(x, logits)
    cpu, gpu = both.cpu, both.gpu
    given = gpu.moe_route(gpu.upload(logits), None, TOP_K, True, 2.5)
    routing = cpu.moe_route(cpu.upload(logits), None, TOP_K, True, 2.5)
    ids, weights = (gpu.device.fetched(each[:5, :TOP_K].contiguous()) for each in (given.ids, given.weights))
    assert ids.tolist() == routing.ids().tolist()
    np.testing.assert_allclose(weights, routing.weights(), rtol=1e-6)
    routing = type_of_routing()(ids, weights, NUM_EXPERTS)
    expected = cpu.download(cpu.moe_ffn(cpu.upload(x), routing, *both.on_cpu, 0.5))
    assert actual.tobytes() == expected.tobytes()


def test_a_row_alone_is_the_row_among_others(experts: Experts) -> None:
    x, logits = rows(6)
    together = experts(x, logits)
    x[4] = np.nan
    for row in (0, 3, 5):
        assert experts(x[row : row + 1], logits[row : row + 1]).tobytes() == together[row].tobytes()
    beside_nan = experts(x, logits)
    assert np.isnan(beside_nan[4]).any()
    assert beside_nan[:4].tobytes() == together[:4].tobytes()


def test_nothing_waits_before_an_op_reads(experts: Experts, monkeypatch: pytest.MonkeyPatch) -> None:
    go, cpu = threading.Event(), experts.gpu.host_experts._cpu
    compute = cpu.moe_ffn

    def slow(*args: object) -> object:
        assert go.wait(60)
        return compute(*args)

    x, logits = rows(2)
    expected = experts(x, logits)
    monkeypatch.setattr(cpu, "moe_ffn", slow)
    pending = experts.begun(x, logits)
    assert pending.shape == (2, HIDDEN)
    assert pending._sent is None
    go.set()
    twice = experts.gpu.add(pending, pending)  # reads both, waits once
    assert experts.gpu.download(twice).tobytes() == (expected + expected).tobytes()
    assert pending.values.shape == (2, HIDDEN)


def test_what_the_worker_raises_is_raised_where_it_is_waited_for(experts: Experts) -> None:
    gpu, (x, logits) = experts.gpu, rows(2)
    gpu.begin_step()
    ids = torch.full((32, 4), NUM_EXPERTS, dtype=torch.int32, device=gpu.device.torch)
    wrong = Routing(ids, ids.to(torch.float32), 2, TOP_K)
    pending = gpu.moe_ffn(gpu.upload(x), wrong, *experts.on_host, 0.5)
    good = experts.begun(x, logits)
    with pytest.raises(Exception, match=f"{NUM_EXPERTS} at 0 is not one of the {NUM_EXPERTS} experts"):
        gpu.add(pending, good)
    assert np.isfinite(gpu.download(good)).all()


def test_the_worker_waits_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that has none is on the first one, and would take memory there."""
    names: list[str] = []
    monkeypatch.setattr(Device, "make_current", lambda _: names.append(threading.current_thread().name))
    Experts(QuantType.Q8_0)(*rows(1))
    assert any(name.startswith("stepahead-experts") for name in names)


def test_experts_alone_can_stay(experts: Experts) -> None:
    data = quantize(np.zeros((32, 64), np.float32), QuantType.Q8_0)
    with pytest.raises(BackendError, match=r"weights of shape \(32, 64\) are no experts"):
        experts.gpu.load_matrix(data, QuantType.Q8_0, (32, 64), ON_HOST + PLAIN)


def type_of_routing() -> type:
    from stepahead import _native

    return _native.Routing


# --- a model ---
def load(path: object, device: str = "cuda", **changes: object) -> LLM:
    settings = {"kv_type": "f32", "context_length": 256, "max_num_seqs": 2, "chunk_tokens": 64, **changes}
    return LLM(path, device=device, threads=1, **settings)


@pytest.fixture(scope="module")
def llm(model_path) -> Iterator[LLM]:
    with exact_dots(), load(model_path("q4_k" if HAS_GPU else SMALLEST), cpu_experts=1) as llm:
        yield llm


def generate(llm: LLM, depth: int, num_tokens: int = NUM_TOKENS) -> Completion:
    params = SamplingParams(max_tokens=num_tokens, ignore_eos=True)
    return llm.generate(PROMPT, params, Speculation("mtp" if depth else "off", depth=depth, adaptive=False))


@pytest.fixture(scope="module")
def text(llm: LLM) -> list[int]:
    return generate(llm, 0).token_ids


@pytest.fixture(scope="module")
def logits(llm: LLM) -> np.ndarray:
    return llm.logits(PROMPT)


def test_logits_are_the_cpus_within_their_budget(llm: LLM, logits: np.ndarray) -> None:
    with load(llm.info.path, "cpu") as cpu, load(llm.info.path, cpu_experts=2) as more:
        expected, all_on_host = cpu.logits(PROMPT), more.logits(PROMPT)
    for actual in (logits, all_on_host):
        assert np.abs(actual - expected).max() < NEAR * np.abs(expected).max()
    assert logits.tobytes() != all_on_host.tobytes(), "the CPU's numbers are not quite the GPU's"


def test_a_prompt_in_other_chunks_has_the_same_bits(llm: LLM, logits: np.ndarray) -> None:
    assert np.concatenate(list(llm.logits_in_chunks(PROMPT, 4))).tobytes() == logits.tobytes()


def test_text_does_not_depend_on_drafts(llm: LLM, text: list[int]) -> None:
    assert generate(llm, 1).token_ids == text
    assert {kind.head for passes in llm.model._passes.values() for kind in passes} == {None, 0}, "all are replayed"


def test_an_error_ends_a_request_and_the_next_is_served(
    llm: LLM, text: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = llm.backend.host_experts._cpu
    compute = cpu.moe_ffn

    def fail_once(*args: object) -> object:
        monkeypatch.setattr(cpu, "moe_ffn", compute)
        raise BackendError("the worker stumbled")

    monkeypatch.setattr(cpu, "moe_ffn", fail_once)
    with pytest.raises(BackendError, match="the worker stumbled"):
        generate(llm, 0)
    assert generate(llm, 0, num_tokens=1).token_ids == text[:1]


def test_it_is_said_where_the_experts_are(llm: LLM) -> None:
    first, *_, last = (index for index, layer in enumerate(llm.model.layers) if layer.is_moe)
    assert llm.config.cpu_experts == 1
    assert llm.memory.host_experts == (last,)
    assert llm.memory.host_nbytes == sum(llm._file.tensors[name].nbytes for name in expert_tensors(last))
    on_gpu, on_host = llm.model.blk[first].ffn, llm.model.blk[last].ffn
    assert isinstance(on_gpu.ffn_up_exps.data, torch.Tensor)
    mapped = llm._file.data(expert_tensors(last)[1])
    assert np.shares_memory(on_host.ffn_up_exps.data, mapped), "the file's own bytes"
    assert llm.model.draft is not None


@pytest.mark.skipif(
    preferred_layout(resolve_isa(None), QuantType.Q4_K, (4, 256, 256)) == PLAIN, reason="nothing is faster in panels"
)
def test_what_the_cpu_has_repacked_is_used(model_path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repacked, "MIN_FILE_BYTES", 0)
    path = model_path(replace(quantised(SMALLEST, QuantType.Q4_K), heads_sliding=4))
    x, logits = np.ones((2, 256), np.float32), np.eye(2, 4, dtype=np.float32)
    layouts, found = [], []
    for device in ("cuda", "cpu", "cuda"):
        with load(path, device, repack=tmp_path, mtp="off", cpu_experts=1 if device == "cuda" else "auto") as llm:
            assert bool(list(tmp_path.iterdir())) == bool(found) or device == "cpu", "a GPU's run writes nothing"
            if device == "cuda":
                backend, part = llm.backend, llm.model.blk[-1].ffn
                experts = part.ffn_gate_exps, part.ffn_up_exps, part.ffn_down_exps
                layouts.append([matrix.layout for matrix in experts])
                routing = backend.moe_route(backend.upload(logits), None, 2, True, 1.0)
                found.append(backend.download(backend.moe_ffn(backend.upload(x), routing, *experts, 0.0)).tobytes())
    assert layouts == [[PLAIN] * 3, [PANELS] * 3]
    assert found[0] == found[1]


def test_prefixes_of_another_placement_are_others(llm: LLM) -> None:
    with load(llm.info.path, gpu_layers=llm.model.num_trunk_layers - 1) as same, load(llm.info.path) as whole:
        assert same.config.cpu_experts == 1
        assert whole.config.cpu_experts == 0
        identity, again, other = (prefix_identity(each.config, each._file, each._runner) for each in (llm, same, whole))
    assert identity == again != other


def test_what_contradicts_is_refused(model_path) -> None:
    path = model_path(SMALLEST)
    with pytest.raises(ConfigError, match="cpu_experts=3 is out of range: 2 layers of the model have experts"):
        load(path, cpu_experts=3)
    with pytest.raises(ConfigError, match="cpu_experts=1 and gpu_layers=2 both say"):
        load(path, cpu_experts=1, gpu_layers=2)
