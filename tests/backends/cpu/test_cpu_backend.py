"""The CPU backend as a whole: instruction sets, memory, and what must not disturb it."""

import os
import threading

import numpy as np
import pytest
from cpu_cases import BEST, assert_same_bits, make_backend, normal, weights

from stepahead import _native
from stepahead.backends.cpu.ops import ISAS, CpuBackend
from stepahead.errors import BackendError, ConfigError
from stepahead.gguf import QuantType


def work(backend: CpuBackend, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x, data = normal(rng, 3, 256), weights(rng, QuantType.Q4_K, (99, 256))
    y = backend.linear(backend.upload(x), backend.load_matrix(data, QuantType.Q4_K, (99, 256)))
    return backend.swiglu(y, y, 0.0).numpy()


def test_the_best_instruction_set_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEPAHEAD_ISA", raising=False)
    available = _native.available_isas()
    assert available[-1] == "scalar"
    assert set(available) <= set(ISAS)
    assert available == [isa for isa in ("avx512", "avx2", "neon_dotprod", "neon", "scalar") if isa in available]
    description = CpuBackend(threads=2).describe()
    assert description == {"backend": "cpu", "isa": available[0], "threads": 2, "available_isas": available}


def test_an_instruction_set_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    for isa in _native.available_isas():
        monkeypatch.setenv("STEPAHEAD_ISA", isa)
        assert CpuBackend(threads=1).describe()["isa"] == isa
    assert CpuBackend(threads=1, isa="scalar").describe()["isa"] == "scalar"


def test_an_instruction_set_that_is_none_or_not_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPAHEAD_ISA", "sse9")
    with pytest.raises(ConfigError, match=r"STEPAHEAD_ISA='sse9' is no instruction set; give one of .*scalar"):
        CpuBackend(threads=1)
    missing = next(isa for isa in ISAS if isa not in _native.available_isas())
    with pytest.raises(BackendError, match=f"isa='{missing}' cannot run here; give one of .*scalar"):
        CpuBackend(threads=1, isa=missing)
    with pytest.raises(BackendError, match=r"can run: .*scalar"):
        _native.Context(1, missing)
    with pytest.raises(BackendError, match="0 threads"):
        _native.Context(0, "scalar")


def test_memory_returns_and_is_used_again() -> None:
    backend = make_backend(1, "scalar")
    context = backend._context
    assert context.bytes_in_use == 0
    x = backend.zeros(10, 1000)
    used = context.bytes_in_use
    assert used >= 40_000
    view = x.numpy()
    del x
    assert context.bytes_in_use == used  # the array keeps it
    del view
    assert (context.bytes_in_use, context.bytes_idle) == (0, used)
    x = backend.zeros(10, 1000)
    assert (context.bytes_in_use, context.bytes_idle) == (used, 0)
    assert x.numpy().ctypes.data % 64 == 0
    y = backend.add(x, x)
    del backend, context
    assert (y.numpy() == 0).all()  # memory outlives its backend


def test_download_shares_and_upload_copies() -> None:
    values = np.ones((2, 3), np.float32)
    x = BEST.upload(values)
    values[:] = 5
    assert (BEST.download(x) == 1).all()
    assert BEST.upload(np.ones((3, 2), np.float32).T).shape == (2, 3)
    assert BEST.zeros(0, 5).numpy().shape == (0, 5)


def test_several_python_threads_share_a_backend() -> None:
    expected = [work(BEST, seed).copy() for seed in range(4)]
    results: dict[tuple[int, int], np.ndarray] = {}

    def run(seed: int) -> None:
        for i in range(20):
            results[seed, i] = work(BEST, seed).copy()

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (seed, _), result in results.items():
        assert_same_bits(result, expected[seed])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_computes_alone() -> None:
    expected = work(BEST).copy()
    child = os.fork()
    if child == 0:
        try:
            same = work(BEST).tobytes() == expected.tobytes()
        except BaseException:
            same = False
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_caller_that_flushes_denormals_changes_no_bit() -> None:
    torch = pytest.importorskip("torch", reason="only torch sets the mode from Python")
    backend = make_backend(1, _native.available_isas()[0])
    x = np.full((1, 64), 1e-39, np.float32)
    expected = backend.add(backend.upload(x), backend.upload(x)).numpy().copy()
    assert (expected > 0).all()
    try:
        torch.set_flush_denormal(True)
        assert_same_bits(backend.add(backend.upload(x), backend.upload(x)).numpy(), expected)
        assert torch.tensor([1e-39]).mul(2).item() == 0.0  # and the caller has its mode back
    finally:
        torch.set_flush_denormal(False)
