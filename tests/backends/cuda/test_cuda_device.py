"""What is said where a GPU is there and yet cannot be used; nothing here needs one."""

from types import SimpleNamespace

import pytest

pytest.importorskip("triton")
import torch

from stepahead import BackendError, CapacityError
from stepahead.backends.cuda import device as room
from stepahead.backends.cuda.device import Device, explains_memory


class Driver:
    @property
    def active(self) -> object:
        raise RuntimeError("Failed to find C compiler")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one, it seems."""
    facts = SimpleNamespace(major=9, minor=0, name="a GPU", multi_processor_count=132, total_memory=80 * 10**9)
    for name, value in {
        "is_available": True, "device_count": 1, "get_device_properties": facts, "set_device": None,
        "mem_get_info": (10**9, 80 * 10**9),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(room, "knobs", SimpleNamespace(runtime=SimpleNamespace(interpret=False)))


def test_without_a_compiler_it_is_said_what_is_missing(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "driver", Driver())
    with pytest.raises(BackendError, match=r"a GPU.*\(gcc, python3-dev\): Failed to find C compiler"):
        Device.open()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("Tried to allocate 20.00 MiB"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_whoever_says_that_memory_is_full_it_is_the_same_error(gpu: None, error: Exception) -> None:
    with pytest.raises(CapacityError, match=r"its memory is full, 1\.0 of 80\.0 GB are free"):
        failing(error).work()


def test_other_errors_stay(gpu: None) -> None:
    with pytest.raises(RuntimeError, match="illegal"):
        failing(RuntimeError("CUDA error: an illegal memory access was encountered")).work()


def failing(error: Exception) -> object:
    @explains_memory
    class Works:
        device = Device(torch.device("cuda", 0), "a GPU", "sm_90", 90, 132, 80 * 10**9)

        def work(self) -> None:
            raise error

    return Works()
