"""Pairs of many rows, grouped by expert: every pair once, ascending, in tiles of one expert each."""

import pytest

pytest.importorskip("triton")

import numpy as np
import torch

from stepahead.backends.cuda.configs import FEW_ROWS, MANY_ROWS
from stepahead.backends.cuda.kernels.moe_blocked import group_pairs, num_tiles, tile_rows
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.routing import Routing

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def routing_of(ids):
    """ids: (rows, top_k), ascending."""
    routing = Routing.empty(*ids.shape, DEVICE)
    routing.ids.fill_(-1)
    routing.ids[: ids.shape[0], : ids.shape[1]] = torch.from_numpy(ids.astype(np.int32))
    return routing


def check(ids, num_experts, rows=MANY_ROWS):
    routing = routing_of(ids)
    grouped = group_pairs(Launcher(), routing, num_experts, rows)
    experts, pairs = grouped.experts.cpu().numpy(), grouped.pairs.cpu().numpy()
    assert len(experts) == num_tiles(ids.size, num_experts, rows)
    flat = routing.ids.cpu().numpy().reshape(-1)
    for expert in range(num_experts):
        expected = np.flatnonzero(flat == expert)
        mine = pairs[experts == expert].reshape(-1)
        np.testing.assert_array_equal(mine[: len(expected)], expected)
        assert (mine[len(expected) :] == -1).all()
        assert len(mine) == -(-len(expected) // rows) * rows
    assert set(experts.tolist()) <= {-1, *range(num_experts)}


def test_any_rows():
    rng = np.random.default_rng(1)
    check(np.sort(rng.permuted(np.tile(np.arange(12), (100, 1)), axis=1)[:, :3], axis=1), 12, FEW_ROWS)


@pytest.mark.parametrize("rows", [17, 64, 65])
def test_all_rows_to_the_same_experts(rows):
    check(np.tile([[0, 3]], (rows, 1)), 4)


def test_pairs_of_more_than_one_turn():
    check(np.tile([[1]], (2100, 1)), 2)


def test_tiles_are_large_where_experts_have_many_rows():
    assert [tile_rows(Routing.empty(rows, 8, DEVICE), 288) for rows in (17, 288, 289)] == [
        FEW_ROWS,
        FEW_ROWS,
        MANY_ROWS,
    ]
