"""The meter of a GPU asks for the memory that its backend asks for: the same passes on both, with nothing launched."""

import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest

pytest.importorskip("triton")
from torch.utils._python_dispatch import TorchDispatchMode

os.environ.setdefault("TRITON_INTERPRET", "1")  # before a kernel is defined

from stepahead.backends.base import AttentionRows, Backend
from stepahead.backends.cpu.ops import CpuBackend
from stepahead.backends.cuda import cycle_tensors
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.ops import CudaBackend
from stepahead.gguf import GGUFFile, QuantType
from stepahead.memory import recorded_passes
from stepahead.memory.device_meter import DeviceMeter
from stepahead.memory.torch_pool import TorchPool
from stepahead.models.model import ForwardBatch
from stepahead.models.registry import load_model
from support.random_step35 import Shape

pytestmark = pytest.mark.skipif(os.environ["TRITON_INTERPRET"] == "0", reason="looks at the memory of the host")
SHAPE = Shape(
    hidden=256, head_dim=32, heads_full=8, heads_sliding=16, width=512, expert_width=256, shared_width=256, window=1100,
    num_experts=4, num_heads_mtp=1, type=QuantType.Q8_0,
)  # fmt: skip
SHARED_APART = {"shared_width": 128}
BROAD = {"width": 8192}  # K of the last product is split
WIDTH = 40  # of block tables: attention is parted


class NoLauncher(Launcher):
    """Counts, and launches nothing."""

    num_launches = 0

    def __call__(self, kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
        self.num_launches += 0 not in grid


class Watch(TorchDispatchMode):
    """Asks a pool for what torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = TorchPool()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in {"empty", "empty_like", "zeros"}:
            storage = made.untyped_storage()
            weakref.finalize(storage, self.pool.release, self.pool.acquire(storage.nbytes()))
        return made


@dataclass
class Twins:
    model: Any
    backend: CudaBackend
    dry: Any
    meter: DeviceMeter
    kv: tuple[Any, ...]
    dry_kv: tuple[Any, ...]

    def batch(self, num_rows: int, num_logits: int) -> ForwardBatch:
        zeros = np.zeros(num_rows, np.int32)
        rows = AttentionRows(zeros, zeros, zeros, np.zeros((1, WIDTH), np.int32), zeros)
        return ForwardBatch(zeros, zeros, (rows,) * len(self.model.kv_specs), np.zeros(num_logits, np.int32))


@pytest.fixture(scope="module", params=["f32", "f16", "bf16", "q8_0", "q4_k", "broad", "apart"])
def twins(model_path, request: pytest.FixtureRequest) -> Iterator[Twins]:
    changes = {"broad": BROAD, "apart": SHARED_APART}.get(request.param, {})
    type = QuantType.Q8_0 if changes else QuantType[request.param.upper()]
    if type in (QuantType.F16, QuantType.BF16):
        changes = {"width": 2048}  # the same of theirs
    backend = CudaBackend()
    meter = DeviceMeter(cast(Backend, CpuBackend(threads=1)))
    with GGUFFile.open(model_path(SHAPE, type=type, **changes)) as file:
        backend._loader._launch = backend.launch = NoLauncher()
        model, dry = (load_model(file, cast(Backend, one), file) for one in (backend, meter))
        model.load_outputs()
        kv = tuple(backend.new_kv(2, layer.num_kv_heads, layer.head_dim, "f16") for layer in model.layers)
        dry_kv = tuple(meter.new_kv(2, layer.num_kv_heads, layer.head_dim, "f16") for layer in model.layers)
        yield Twins(model, backend, dry, meter, kv, dry_kv)


def test_rings_are_as_long() -> None:
    assert recorded_passes.RING == cycle_tensors.RING


@pytest.mark.parametrize("num_rows", [1, 5, 16, 40])
def test_passes_take_what_the_backend_takes(twins: Twins, num_rows: int) -> None:
    launches = cast(NoLauncher, twins.backend.launch)
    for head in (None, 0):
        batch = twins.batch(num_rows, min(num_rows, 16))
        twins.model.forward(batch, twins.kv, lambda: None)  # what is kept from pass to pass is there from now on
        twins.backend.begin_step()
        hidden = twins.backend.zeros(num_rows, twins.model.hidden_size)
        twins.meter.new_pool()
        dry_hidden = twins.meter.zeros(num_rows, twins.model.hidden_size)
        twins.meter.new_pool()
        launches.num_launches = twins.meter.num_launches = 0
        with Watch() as watch:
            if head is None:
                output = twins.model.forward(batch, twins.kv, lambda: None)
            else:
                output = twins.model.draft_forward(head, batch, hidden, twins.kv, lambda: None)
            output.hidden.values  # noqa: B018 - as a recording does
        if head is None:
            dry = twins.dry.forward(batch, twins.dry_kv, lambda: None)
        else:
            dry = twins.dry.draft_forward(head, batch, dry_hidden, twins.dry_kv, lambda: None)
        twins.meter.values(dry.hidden)
        assert launches.num_launches == twins.meter.num_launches
        assert twins.meter.arena.nbytes_in_use == pytest.approx(watch.pool.nbytes_in_use, abs=2048)
        assert twins.meter.arena.peak == watch.pool.peak
