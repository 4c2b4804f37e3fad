"""Step with random weights that are made on the device: no file, no bytes on the host, any number of layers.

What a file says comes from the shapes of benchmarks/peers/models.py; what it would hold, from made_weights.py. The
model's own code runs on it, and so does the engine.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.cuda.byte_bounds import HEAD_TYPE, JOIN_TYPE, SLIM_COLUMNS, matrix_nbytes
from benchmarks.cuda.made_weights import made_matrix
from benchmarks.cuda.sliding import SlidingSet
from benchmarks.peers.models import PRESETS, Shape, metadata, tensors
from stepahead.backends.base import Bytes, Floats, Ints, Rope
from stepahead.backends.cuda.kernels.gather_rows import gather_rows
from stepahead.backends.cuda.kernels.rope_table import RopeTable
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.ops import CudaBackend
from stepahead.backends.cuda.replayed_model import ReplayedModel
from stepahead.backends.cuda.routing import Routing
from stepahead.backends.cuda.rows import Rows
from stepahead.engine.cycle_queue import CycleQueue
from stepahead.engine.engine import Engine
from stepahead.engine.runner import ModelRunner
from stepahead.engine.sampler import Sampler
from stepahead.engine.scheduler import Scheduler
from stepahead.gguf import QuantType, TensorInfo, TypedValue
from stepahead.gguf.metadata import MetadataReader
from stepahead.models.step35 import Step35
from stepahead.speculative.arbiter import Arbiter
from stepahead.speculative.cost import CostSeed
from stepahead.speculative.cycle_planner import CyclePlanner
from stepahead.speculative.mtp import MtpProposer

STEP = replace(PRESETS["mid288"], name="step", num_trunk=45, dense_lead=3)
TOY = Shape(
    name="toy", hidden=64, head_dim=32, num_trunk=2, heads_full=2, heads_sliding=2, num_kv_heads=1, window=16,
    context=256, width=64, num_experts=4, top_k=2, expert_width=32, vocab=96, num_mtp=2, full_period=2,
    type=QuantType.Q8_0, output_type=QuantType.Q8_0,
)  # fmt: skip
KV_TYPE = "f16"


class MadeFile(MetadataReader):
    """What loaders read of a file: metadata, names, types and shapes. Bytes of matrices are zeros that take no room."""

    def __init__(self, shape: Shape) -> None:
        self.path = Path("made")
        self.metadata = {name: _plain(value) for name, value in metadata(shape).items() if name.startswith("step35.")}
        self.tensors = {
            name: TensorInfo(name, data.shape, type := _type(shape, name, data.type), 0, type.nbytes(data.shape), 0)
            for name, data in tensors(shape)
        }

    def data(self, name: str) -> Bytes:
        info = self.tensors[name]
        return np.broadcast_to(np.uint8(0), (*info.shape[:-1], info.row_bytes))

    def array(self, name: str) -> Floats:
        """Norms weigh as 1 does, and no expert is preferred."""
        return np.full(self.tensors[name].shape, 0.0 if name.endswith(".bias") else 1.0, np.float32)

    @property
    def nbytes(self) -> int:
        """On the device."""
        return sum(matrix_nbytes(info.type, *info.shape) for info in self.tensors.values() if len(info.shape) > 1)


class MadeBackend(CudaBackend):
    """Whatever is loaded is made instead. sliding: added to the router logits of the row at each position."""

    def __init__(self) -> None:
        super().__init__()
        self.sliding: torch.Tensor | None = None  # (positions, experts)
        self.sliding_rope: Rope | None = None  # of layers of the trunk alone: with it, positions are looked up
        self._preferences: Rows | None = None

    def load_matrix(self, data: Bytes, type: QuantType, shape: tuple[int, ...], layout: str = "plain") -> CudaMatrix:
        return made_matrix(type, shape, self.device.torch)

    def rope_table(self, rope: Rope, positions: Ints) -> RopeTable:
        if self.sliding is not None and rope is self.sliding_rope:
            self._preferences = Rows(gather_rows(self.launch, self.sliding, self.arrays(positions)))
        return super().rope_table(rope, positions)

    def moe_route(self, logits: Rows, bias: Rows | None, top_k: int, normalize: bool, scale: float) -> Routing:
        if self.sliding is not None and self._preferences is not None:
            logits = self.add(logits, self._preferences)
        return super().moe_route(logits, bias, top_k, normalize, scale)


class MadeModel:
    """As many layers of `shape` as fit into `room` bytes. shape: that of what was made; whole: what was asked for."""

    def __init__(self, whole: Shape, room: float) -> None:
        self.whole = whole
        self.shape = _fitting(whole, room)
        self.backend = MadeBackend()
        file: Any = MadeFile(self.shape)
        self.nbytes = file.nbytes
        self.model = Step35(file, self.backend, file)
        self.model.load_outputs()
        self._heads = self.model.heads
        self._sliding = SlidingSet.of(whole.num_experts, whole.top_k).table(whole.context)

    @property
    def num_expert_layers(self) -> int:
        return sum(self.shape.is_moe(index) for index in range(self.shape.num_trunk))

    def share_experts(self, is_wanted: bool) -> None:
        """Neighbouring rows share a third of their experts, or what chance will have. It costs a launch a layer."""
        self.backend.sliding = torch.from_numpy(self._sliding).to(self.backend.device.torch) if is_wanted else None
        self.backend.sliding_rope = self.model.config.full_rope

    def slim_heads(self, is_wanted: bool) -> None:
        """Heads draft tokens of a shortlist."""
        self.model.heads = self._heads
        if is_wanted:
            columns = min(SLIM_COLUMNS, self.shape.vocab)
            type = self._heads[0].shared_head_head.type
            shape = (columns, self.shape.hidden)
            self.model.heads = tuple(
                replace(head, shared_head_head=made_matrix(type, shape, self.backend.device.torch))
                for head in self._heads
            )

    def num_launches(self, engine: Engine) -> int:
        """Of the engine's next step, which must not replay."""
        with self.backend.launch.record() as recording:
            engine.step()
        return len(recording.launches)

    def engine(self, context: int, chunk_tokens: int, is_replayed: bool) -> Engine:
        """For one sequence, with drafts as long as each request asks for; replayed, it runs cycles ahead of the host,
        as LLM's does. What was recorded for it has the experts and heads that were wanted when it was made."""
        model: Any = ReplayedModel(self.model, self.backend) if is_replayed else self.model
        backend: Any = self.backend
        runner = ModelRunner.create(model, backend, KV_TYPE, context, 1, chunk_tokens, cache_nbytes=0)
        sampler = Sampler(backend.token_words)
        mtp = MtpProposer(runner, sampler)
        arbiter = Arbiter(mtp, _no_prices, runner)
        scheduler = Scheduler(runner.kv_cache, 1, chunk_tokens, arbiter.forget)
        cycles = None
        if runner.cycles is not None:
            cycles = CycleQueue(runner.cycles, CyclePlanner(arbiter, mtp), scheduler, runner.metrics)
        return Engine(runner, scheduler, arbiter, sampler, cycles=cycles)


def made_model(bench: Any) -> MadeModel:
    """One a run: parts share it."""
    if bench.made is None:
        bench.free_memory()
        room = np.inf if bench.is_toy else torch.cuda.mem_get_info()[0] - SPARE_BYTES
        bench.made = MadeModel(TOY if bench.is_toy else STEP, room)
    return bench.made


SPARE_BYTES = 7 << 30
"""For keys and values, a prompt's rows, graphs, and matrices of other parts."""


def _no_prices() -> CostSeed:
    raise AssertionError("drafts of a fixed length have no price")


def _fitting(whole: Shape, room: float) -> Shape:
    for num_trunk in range(whole.num_trunk, whole.dense_lead, -1):
        shape = replace(whole, num_trunk=num_trunk)
        if MadeFile(shape).nbytes <= room:
            return shape
    raise MemoryError(f"{room / 1e9:.1f} GB hold no layer with experts of {whole.name}")


def _type(shape: Shape, name: str, type: QuantType) -> QuantType:
    """Heads are mixed as StepFun's are: see byte_bounds."""
    if shape.type is not QuantType.Q4_K:
        return type
    if name.endswith("nextn.eh_proj.weight"):
        return JOIN_TYPE
    return HEAD_TYPE if name.endswith("nextn.shared_head_head.weight") else type


def _plain(value: Any) -> Any:
    """As a file's metadata have it: numbers, or arrays of them."""
    value = value.value if isinstance(value, TypedValue) else value
    return np.array(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
