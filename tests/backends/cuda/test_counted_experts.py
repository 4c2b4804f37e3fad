"""How many experts the rows of a pass touch together, against the reference."""

import pytest

pytest.importorskip("triton")

import numpy as np
import torch

from stepahead.backends.cuda.expert_counter import LAYERS, ExpertCounter
from stepahead.backends.cuda.kernels.moe_route import moe_route
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.reference.ops import ReferenceBackend

LAUNCH = Launcher()
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def route_both(counter, reference, logits, top_k):
    page = counter.page(len(logits), top_k)
    moe_route(LAUNCH, torch.from_numpy(logits).to(DEVICE), None, top_k, False, 0.0, page)
    reference.moe_route(logits, None, top_k, False, 0.0)


def sums(counter):
    """Of the rows so far, as the backend tells them."""
    return tuple(np.cumsum(counter.count(LAUNCH)[: counter.num_rows].cpu().numpy()).tolist())


@pytest.mark.parametrize("rows", [(1,), (4, 4, 2), (33, 1)])  # of each layer
def test_distinct_experts_of_the_rows_so_far(rows):
    rng = np.random.default_rng(len(rows))
    counter, reference = ExpertCounter(DEVICE), ReferenceBackend()
    for _ in range(2):  # the second pass begins anew, over what the first left
        counter.begin_step()
        reference.begin_step()
        for count in rows:
            route_both(counter, reference, rng.normal(0, 1, (count, 12)).astype(np.float32), 3)
        assert sums(counter) == reference.routed_experts()


def test_no_routing_counts_nothing():
    assert sums(ExpertCounter(DEVICE)) == ()


def test_more_layers_than_one_page_holds():
    counter = ExpertCounter(DEVICE)
    for _ in range(LAYERS + 3):
        counter.page(2, 2)[:2] = torch.tensor([[0, 1], [1, 2]], dtype=torch.int32)
    assert sums(counter) == (2 * (LAYERS + 3), 3 * (LAYERS + 3))
