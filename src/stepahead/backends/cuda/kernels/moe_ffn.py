"""The routed feed-forward: what its kernels are called with, one after the other."""

import torch

from stepahead.backends.base import SharedExpert
from stepahead.backends.cuda.kernels.expert_tile import ExpertTiles, rides_along
from stepahead.backends.cuda.kernels.moe_combine import moe_combine
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
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """residual + (a row's experts, weighted and added, + shared expert): (num_rows, width) float32."""
    assert shared is None or rides_along(shared, gate, up, down)
    tiles = ExpertTiles.of(launch, routing, gate, up, down, has_shared=shared is not None)
    hidden = moe_gate_up(launch, x, tiles, gate, up, limit, shared)
    outputs = moe_down(launch, hidden, tiles, down, shared)
    return moe_combine(launch, outputs, routing, outputs[routing.num_pairs :] if shared else None, residual)
