"""The routed feed-forward: what its kernels are called with, one after the other."""

import torch

from stepahead.backends.cuda.kernels.moe_blocked import FEW_ROWS, group_pairs
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
    shared: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
) -> torch.Tensor:
    """residual + (sum of a row's experts, weighted, + shared): (num_rows, width) float32."""
    grouped = None if routing.num_rows <= FEW_ROWS else group_pairs(launch, routing, gate.shape[0])
    hidden = moe_gate_up(launch, x, routing, grouped, gate, up, limit)
    outputs = moe_down(launch, hidden, routing, grouped, down)
    return moe_combine(launch, outputs, routing, shared, residual)
