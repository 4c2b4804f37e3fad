"""Choice of experts and their sum, against the reference: ties, NaN, padding, what is added after."""

import pytest

pytest.importorskip("triton")

import numpy as np
import torch

from stepahead.backends.cuda.expert_outputs import ExpertOutputs
from stepahead.backends.cuda.kernels.moe_combine import moe_combine
from stepahead.backends.cuda.kernels.moe_route import moe_route
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.routing import Routing
from stepahead.backends.reference.ops import ReferenceBackend

LAUNCH = Launcher()
REFERENCE = ReferenceBackend()
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def route(logits, bias=None, top_k=8, normalize=True, scale=3.0, counted=None):
    tensors = [None if a is None else torch.from_numpy(a).to(DEVICE) for a in (logits, bias)]
    with np.errstate(all="ignore"):  # the interpreter is numpy
        return moe_route(LAUNCH, *tensors, top_k, normalize, scale, counted)


def check(logits, bias=None, top_k=8, normalize=True, scale=3.0):
    mine = route(logits, bias, top_k, normalize, scale)
    with np.errstate(all="ignore"):
        theirs = REFERENCE.moe_route(logits, bias, top_k, normalize, scale)
    assert mine.shape == theirs.shape
    ids, weights = mine.ids.cpu().numpy(), mine.weights.cpu().numpy()
    rows = len(logits)
    np.testing.assert_array_equal(ids[:rows, :top_k], theirs.expert_ids)
    np.testing.assert_allclose(weights[:rows, :top_k], theirs.weights, rtol=2e-6)
    assert (ids[rows:] == -1).all() and (ids[:, top_k:] == -1).all()


@pytest.mark.parametrize("rows", [1, 3])
def test_288_experts_with_bias(rows):
    rng = np.random.default_rng(rows)
    logits = rng.normal(0, 2, (rows, 288)).astype(np.float32)
    check(logits, rng.normal(0, 0.1, (1, 288)).astype(np.float32))


@pytest.mark.parametrize(("experts", "top_k"), [(5, 3), (16, 16), (1024, 2), (1, 1)])
def test_other_counts(experts, top_k):
    logits = np.random.default_rng(1).normal(0, 2, (2, experts)).astype(np.float32)
    check(logits, top_k=top_k, normalize=False, scale=0.0)


def test_ties_go_to_the_lowest_id_and_nan_ranks_last():
    logits = np.zeros((6, 40), np.float32)
    logits[1, 20:] = 1.0
    logits[2, :37] = np.nan  # three numbers, then the first five of what is not one
    logits[3, 5], logits[3, 7] = np.inf, -np.inf
    logits[4] = -np.inf  # all weights 0: divided by 2^-14, not by 0
    logits[5] = -100.0  # and a sum that is below it
    check(logits)
    bias = np.linspace(-2, 2, 40, dtype=np.float32)[None]  # preferences of either sign
    bias[0, 3] = -np.inf
    bias[0, 4] = np.nan
    check(logits, bias)


def test_the_sum_goes_in_ascending_order_of_ids():
    logits = np.full((2, 9), -16.7, np.float32)  # 2^-24.1: too little for a 1 to notice, seven of them are not
    logits[0, 0] = logits[1, 8] = 40.0
    weights = route(logits, scale=0.0).weights.cpu().numpy()
    assert weights[0, 0] == 1.0
    assert weights[1, 7] < 1.0


def test_a_row_alone_has_the_bits_it_has_among_others():
    logits = np.random.default_rng(2).normal(0, 2, (34, 32)).astype(np.float32)
    alone, among = route(logits[33:], top_k=2), route(logits, top_k=2)
    for name in ("ids", "weights"):
        a, b = getattr(alone, name)[0], getattr(among, name)[33]
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_first_rows_are_copied_for_counting():
    counted = torch.full((32, 4), 7, dtype=torch.int32, device=DEVICE)
    mine = route(np.random.default_rng(3).normal(0, 2, (3, 32)).astype(np.float32), top_k=3, counted=counted)
    torch.testing.assert_close(counted, mine.ids[:32])
    assert (counted[3:] == -1).all()


def combined(width, shared, residual, top_k=3, rows=4):
    rng = np.random.default_rng(4)
    routing = Routing.empty(rows, top_k, DEVICE)
    weights = rng.random((rows, top_k), np.float32)
    routing.weights.fill_(np.nan)
    routing.weights[:rows, :top_k] = torch.from_numpy(weights)
    parts = np.full((rows, routing.padded_top_k, width), np.nan, np.float32)
    parts[:, :top_k] = rng.normal(0, 1, (rows, top_k, width))
    more = [torch.from_numpy(rng.normal(0, 1, (rows, width)).astype(np.float32)).to(DEVICE) for _ in range(2)]
    outputs = torch.from_numpy(parts.reshape(-1, width)).to(DEVICE)
    experts = ExpertOutputs(outputs, routing, more[0] if shared else None)
    out = moe_combine(LAUNCH, experts, more[1] if residual else None)
    expected = np.zeros((rows, width), np.float32)
    for slot in range(top_k):
        exact = weights[:, slot, None].astype(np.float64) * parts[:, slot] + expected
        expected = exact.astype(np.float32)
    for wanted, tensor in zip((shared, residual), more, strict=True):
        if wanted:
            expected += tensor.cpu().numpy()
    return out.cpu().numpy(), expected


@pytest.mark.parametrize(("width", "shared", "residual"), [(512, False, False), (96, True, False), (600, True, True)])
def test_sum_of_experts(width, shared, residual):
    mine, expected = combined(width, shared, residual)
    np.testing.assert_allclose(mine, expected, rtol=1e-6, atol=1e-6)  # not every interpreter fuses
