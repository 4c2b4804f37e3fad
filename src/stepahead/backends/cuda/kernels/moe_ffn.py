"""The routed feed-forward but for the sum: what its kernels are called with, one after the other."""

from stepahead.backends.base import SharedExpert
from stepahead.backends.cuda.expert_outputs import ExpertOutputs
from stepahead.backends.cuda.kernels.expert_tile import ExpertTiles, rides_along
from stepahead.backends.cuda.kernels.moe_down import moe_down
from stepahead.backends.cuda.kernels.moe_gate_up import moe_gate_up
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.routing import Routing
from stepahead.backends.cuda.rows import Rows


def moe_ffn(
    launch: Launcher,
    x: Rows,
    routing: Routing,
    gate: CudaMatrix,
    up: CudaMatrix,
    down: CudaMatrix,
    limit: float,
    shared: SharedExpert | None = None,  # that rides along
) -> ExpertOutputs:
    assert shared is None or rides_along(shared, gate, up, down)
    tiles = ExpertTiles.of(launch, routing, gate, up, down, has_shared=shared is not None)
    hidden = moe_gate_up(launch, x, tiles, gate, up, limit, shared)
    outputs = moe_down(launch, hidden, tiles, down, shared)
    return ExpertOutputs(outputs, routing, outputs[routing.num_pairs :] if shared else None)
