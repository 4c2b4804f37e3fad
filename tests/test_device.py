"""Which device is taken, and what is said where it cannot be had. Needs neither a GPU nor its libraries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stepahead import LLM, CapacityError, ConfigError, SamplingParams, opening
from stepahead.backends.base import OwnMemory
from stepahead.backends.cpu.ops import CpuBackend
from stepahead.backends.cuda import requirements
from stepahead.config import EngineConfig
from stepahead.models.late_matrix import LateMatrix
from stepahead.repack.cache_file import PAGE

TIGHT = 200_000


class OwnMemoryBackend(CpuBackend):
    """A GPU of which only the memory is one."""

    name = "small"
    loaded = 0

    @property
    def own_memory(self) -> OwnMemory:
        return OwnMemory("a small GPU", self.free_nbytes)

    def finish_loading(self) -> None:
        self.loaded += 1


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> type[OwnMemoryBackend]:
    """There is one, it seems."""

    class Backend(OwnMemoryBackend):
        free_nbytes = 10**12

    def make(config: EngineConfig):
        return Backend(threads=1) if opening.decide_device(config.device) == "cuda:0" else CpuBackend(threads=1)

    monkeypatch.setattr(opening, "is_gpu_there", lambda: True)
    monkeypatch.setattr(opening, "make_backend", make)
    return Backend


def load(path: Path, **settings: object) -> LLM:
    return LLM(path, **{"threads": 1, "context_length": 128, "chunk_tokens": 64, "max_num_seqs": 1, **settings})


def test_auto_is_the_gpu_that_is_there(gpu, model_path) -> None:
    told: list[tuple[int, int]] = []
    with load(model_path("q8_0"), on_repack=lambda _, done, total: told.append((done, total))) as llm:
        assert llm.config.device == "cuda:0"
        assert llm.backend.loaded == 1
        assert llm.memory.file_nbytes == 0  # all that it needs is in that memory
        assert llm.memory.of_name("weights") >= llm.model.trunk_nbytes
    assert told == sorted(told)
    assert 0 < told[-1][0] < told[-1][1]


def test_beside_a_shortlist_whole_outputs_are_not_loaded(gpu, model_path) -> None:
    """Until somebody asks for the logits of all ids; the plan counts what is loaded without."""
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    path, prompt = model_path("q8_0"), list(range(20, 50))
    with load(path, draft_vocab=64) as short, load(path, draft_vocab="full") as full, load(path, device="cpu") as cpu:
        late = [head.shared_head_head for head in short.model.heads]
        assert short.generate(prompt, params).token_ids == full.generate(prompt, params).token_ids
        assert all(isinstance(matrix, LateMatrix) and not matrix.is_loaded for matrix in late)
        assert all(head.shared_head_head.is_loaded for head in full.model.heads)
        assert full.backend.loaded == short.backend.loaded == 1
        nbytes = sum(matrix.nbytes for matrix in late)
        assert short.memory.of_name("heads") == full.memory.of_name("heads") - nbytes
        seen = short.model.draft_vocab.seen_nbytes
        frequent = sum(part.frequent.nbytes for part in short.model.draft_vocab._outputs)
        assert 0 <= short.memory.of_name("draft shortlist") - seen - frequent < PAGE * len(late)
        assert short.draft_logits(prompt).tobytes() == cpu.draft_logits(prompt).tobytes()
        assert all(matrix.is_loaded for matrix in late)


def test_auto_is_the_cpu_where_the_model_does_not_fit(gpu, model_path, caplog: pytest.LogCaptureFixture) -> None:
    gpu.free_nbytes = TIGHT
    with caplog.at_level("WARNING", "stepahead"), load(model_path("q8_0")) as llm:
        assert llm.config.device == "cpu"
    assert "computes on the CPU, it does not fit on the GPU" in caplog.text


def test_a_gpu_that_was_asked_for_is_not_given_up(gpu, model_path) -> None:
    gpu.free_nbytes = TIGHT
    with pytest.raises(CapacityError) as caught:
        load(model_path("q8_0"), device="cuda")
    message = str(caught.value)
    assert "of the memory of a small GPU" in message
    assert message.endswith("or --device cpu")
    with load(model_path("q8_0"), device="cuda", memory_gb=1.5) as llm:
        assert llm.config.device == "cuda:0"


def test_auto_is_the_cpu_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "is_gpu_there", lambda: False)
    devices = {"auto": "cpu", "cpu": "cpu", "reference": "reference", "cuda": "cuda:0", "cuda:3": "cuda:3"}
    assert {asked: opening.decide_device(asked) for asked in devices} == devices


def test_a_machine_without_a_driver_is_not_asked_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "DRIVERS", ())
    assert not requirements.is_gpu_there()


def test_no_gpu_library_is_imported_where_there_is_no_gpu(model_path) -> None:
    program = (
        f"import sys; from stepahead import LLM; LLM({str(model_path('f32'))!r}, threads=1); "
        "sys.exit(bool({'torch', 'triton'} & sys.modules.keys()))"
    )
    if any(path.exists() for path in requirements.DRIVERS):
        pytest.skip("there is a driver here")
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch, model_path) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs torch and triton, which are not installed: pip install 'stepahead\["):
        load(model_path("f32"), device="cuda")


def test_compiled_kernels_are_kept_by_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: name)
    monkeypatch.setattr(requirements.importlib.metadata, "version", lambda name: "9.8.7")
    monkeypatch.setenv("TRITON_CACHE_DIR", "mine")
    requirements.demand_libraries(tmp_path)
    assert os.environ["TRITON_CACHE_DIR"] == "mine"
    monkeypatch.delenv("TRITON_CACHE_DIR")
    requirements.demand_libraries(tmp_path)
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "triton-9.8.7")
    monkeypatch.delenv("TRITON_CACHE_DIR")
    (tmp_path / "a file").write_text("")
    requirements.demand_libraries(tmp_path / "a file")  # cannot be written to
    assert Path(os.environ["TRITON_CACHE_DIR"]).is_dir()
    monkeypatch.delenv("TRITON_CACHE_DIR")
