"""Routed feed-forward: close to the reference, and a row's bits its own whatever rows share its experts."""

import numpy as np
import pytest

pytest.importorskip("triton")

import torch
from kernel_cases import DEVICE, LAUNCH, assert_same_bits, normal, on_device, on_host, poisoned_memory

from stepahead.backends.base import SharedExpert
from stepahead.backends.cuda.configs import FEW_ROWS, MANY_ROWS
from stepahead.backends.cuda.formats.fields import fields_of
from stepahead.backends.cuda.formats.format import FORMATS
from stepahead.backends.cuda.formats.pack import pack
from stepahead.backends.cuda.kernels.expert_tile import ExpertTiles, rides_along
from stepahead.backends.cuda.kernels.moe_blocked import group_pairs
from stepahead.backends.cuda.kernels.moe_combine import moe_combine
from stepahead.backends.cuda.kernels.moe_down import moe_down
from stepahead.backends.cuda.kernels.moe_ffn import moe_ffn
from stepahead.backends.cuda.kernels.moe_gate_up import moe_gate_up
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.matrix import CudaMatrix
from stepahead.backends.cuda.ops import CudaBackend
from stepahead.backends.cuda.routing import Routing
from stepahead.backends.cuda.rows import Rows
from stepahead.backends.reference.ops import ReferenceBackend, ReferenceRouting
from stepahead.gguf.quants import QuantType

F32, F16, BF16, Q8_0, Q4_K = (QuantType[name] for name in ("F32", "F16", "BF16", "Q8_0", "Q4_K"))
HALVES_AT = {Q8_0: (0,), Q4_K: (0, 2)}  # of a block: d, dmin
REFERENCE = ReferenceBackend()


def expert_bytes(type, experts, out, width, scale, seed=0):
    """(experts * out, row_bytes): random weights, quantised ones with d and dmin of `scale`."""
    rng = np.random.default_rng(seed)
    if type == F32:
        return normal(rng, experts * out, width).view(np.uint8) * np.uint8(1)
    if type in (F16, BF16):
        bits = normal(rng, experts * out, width).view(np.uint32) >> 16  # of BF16
        if type == F16:
            return normal(rng, experts * out, width).astype(np.float16).view(np.uint8)
        return bits.astype(np.uint16).view(np.uint8)
    data = rng.integers(0, 256, (experts * out, type.row_bytes(width)), np.uint8)
    for at in HALVES_AT[type]:
        data.reshape(-1, type.block_bytes)[:, at : at + 2] = np.array([scale], np.float16).view(np.uint8)
    return data


def on_gpu(data, type, shape):
    if type in FORMATS:
        by_expert = data.reshape(shape[0], shape[1], -1)
        words = np.concatenate([pack(fields_of(expert, type), FORMATS[type]) for expert in by_expert])
        return CudaMatrix(on_device(words.view(np.int32)), type, shape)
    dtype = {F32: torch.float32, F16: torch.float16, BF16: torch.bfloat16}[type]
    return CudaMatrix(on_device(data).view(dtype).reshape(-1, shape[2]), type, shape)


def both(type, *shape, scale=0.01, seed=0):
    """The matrix here, and the reference's."""
    data = expert_bytes(type, *shape, scale, seed)
    return on_gpu(data, type, shape), REFERENCE.load_matrix(data.reshape(-1), type, shape)


def routing_of(ids, weights=None):
    ids = np.asarray(ids, np.int32)
    routing = Routing.empty(*ids.shape, DEVICE)
    routing.ids.fill_(-1)
    routing.ids[: len(ids), : ids.shape[1]] = on_device(ids)
    if weights is not None:
        routing.weights[: len(ids), : ids.shape[1]] = on_device(weights)
    return routing


def some_ids(rows, experts, top_k, seed=3):
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(experts), (rows, 1)), axis=1)
    return np.sort(order[:, :top_k], axis=1)


def summed(launch, *args, residual=None):
    """Of moe_ffn."""
    return moe_combine(launch, moe_ffn(launch, *args), residual)


def error(types, hidden, width, rows, limit=0.0, experts=4, top_k=3):
    """Largest error against the reference, relative to its largest number."""
    rng = np.random.default_rng(rows)
    gate, up, down = (
        both(type, experts, *shape, seed=seed)
        for seed, (type, shape) in enumerate(
            zip(types, ((width, hidden), (width, hidden), (hidden, width)), strict=True)
        )
    )
    x, weights = normal(rng, rows, hidden), rng.random((rows, top_k), np.float32)
    ids = some_ids(rows, experts, top_k)
    with poisoned_memory(), np.errstate(all="ignore"):
        mine = summed(LAUNCH, Rows(on_device(x)), routing_of(ids, weights), gate[0], up[0], down[0], limit)
    theirs = REFERENCE.moe_ffn(x, ReferenceRouting(ids, weights), gate[1], up[1], down[1], limit)
    return np.abs(on_host(mine) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("rows", [1, 3, 20])
@pytest.mark.parametrize("types", [(F32, F32, F16), (F16, BF16, F32)], ids=["alike", "apart"])
def test_plain_weights(types, rows):
    assert error(types, 80, 40, rows, limit=2.0) < 1e-6


def test_packed_weights():
    """The rounding of activations to eleven bits is what remains."""
    assert error((Q8_0, Q8_0, F32), 96, 32, 20, limit=50.0, experts=3, top_k=2) < 2e-3


def rounded(rows):
    """As products saw them, float64."""
    halves = on_host(rows.half.values)[:, : rows.shape[1]].astype(np.float64)
    return halves * on_host(rows.half.exponents)[:, None]


def assert_close(mine, exact):
    np.testing.assert_allclose(mine, exact, rtol=0, atol=2e-6 * np.abs(exact).max())


@pytest.mark.parametrize(("types", "rows"), [((Q4_K, Q4_K, Q8_0), 3), ((Q8_0, F32, Q8_0), 2), ((Q8_0, Q8_0, Q8_0), 20)])
def test_packed_products_of_rounded_rows(types, rows):
    """Three experts of 48 columns, two a row: each product against float64."""
    num_in, width = 256 if Q4_K in types else 96, 32
    gate, up, down = (both(types[i], 3, *[(width, num_in), (48, width)][i // 2], seed=i) for i in range(3))
    ids = some_ids(rows, 3, 2)
    routing, pairs = routing_of(ids), [(row, expert) for row in range(rows) for expert in ids[row]]
    tiles = tiles_of(routing, 3)
    x = rows_of(normal(np.random.default_rng(5), rows, num_in))
    with poisoned_memory(), np.errstate(all="ignore"):
        hidden = moe_gate_up(LAUNCH, x, tiles, gate[0], up[0], 3.0)
        out = moe_down(LAUNCH, hidden, tiles, down[0])
    plain = on_host(x.values).astype(np.float64)
    g, u = (
        np.stack([matrix[1].values()[e] @ (rounded(x) if matrix[0].format else plain)[r] for r, e in pairs])
        for matrix in (gate, up)
    )
    assert_close(on_host(hidden.values), np.minimum(g / (1 + np.exp(-g)), 3.0) * np.clip(u, -3.0, 3.0))
    assert_close(on_host(out), np.stack([down[1].values()[e] @ rounded(hidden)[i] for i, (_, e) in enumerate(pairs)]))


def rows_of(values):
    return Rows(on_device(values.astype(np.float32)))


def check_row_keeps_its_bits(multiply):
    """multiply(numbers, tile_rows) -> (rows, top_k, out) of the rows so numbered: row 9 alone and among others."""
    alone = multiply([9], None)
    for rows, tile_rows in ((16, None), (40, FEW_ROWS), (100, MANY_ROWS)):
        assert_same_bits(multiply(range(rows), tile_rows)[9:10], alone, f"among {rows}, {tile_rows} a tile")


IDS = some_ids(100, 3, 2)


def tiles_of(routing, experts, tile_rows=None):
    grouped = None if routing.num_rows <= 16 else group_pairs(LAUNCH, routing, experts, tile_rows)
    return ExpertTiles(routing, grouped)


def whole_numbers(numbers, width):
    """Rows of them, all sums of which are exact, in any order."""
    return np.random.default_rng(9).integers(-2, 3, (100, width)).astype(np.float32)[list(numbers)]


def test_gate_and_up_of_a_row_do_not_depend_on_the_others():
    gate, up = (both(Q4_K, 3, 32, 256, scale=1.0, seed=seed)[0] for seed in (1, 2))

    def multiply(numbers, tile_rows):
        routing = routing_of(IDS[list(numbers)])
        with poisoned_memory(), np.errstate(all="ignore"):
            x = rows_of(whole_numbers(numbers, 256))
            hidden = moe_gate_up(LAUNCH, x, tiles_of(routing, 3, tile_rows), gate, up, 0.0)
        return on_host(hidden.values).reshape(len(numbers), 2, 32)

    check_row_keeps_its_bits(multiply)


def test_down_of_a_row_does_not_depend_on_the_others():
    down = both(Q8_0, 3, 48, 32, scale=1.0)[0]

    def multiply(numbers, tile_rows):
        routing = routing_of(IDS[list(numbers)])
        with poisoned_memory():
            hidden = rows_of(np.repeat(whole_numbers(numbers, 32), 2, axis=0))
            out = moe_down(LAUNCH, hidden, tiles_of(routing, 3, tile_rows), down)
        return on_host(out).reshape(len(numbers), 2, 48)

    check_row_keeps_its_bits(multiply)


def test_rows_that_are_no_numbers_stay_by_themselves():
    gate, up, down = (both(Q8_0, 2, 32, 32, seed=seed)[0] for seed in range(3))
    routing = routing_of([[0, 1], [0, 1], [0, 1], [0, 1]], np.full((4, 2), 0.5, np.float32))

    def out(x):
        with poisoned_memory(), np.errstate(all="ignore"):
            return on_host(summed(LAUNCH, rows_of(x), routing, gate, up, down, 7.0))

    x = normal(np.random.default_rng(1), 4, 32)
    clean = out(x)
    x[1, 3], x[2, 0] = np.nan, np.inf
    x[3] *= 2.0**120  # large, and yet numbers
    mixed = out(x)
    assert_same_bits(mixed[:1], clean[:1])
    assert not np.isfinite(mixed[1:3]).any()


@pytest.mark.parametrize(("types", "rows"), [((F32, F32, F32), 3), ((Q8_0, Q8_0, Q8_0), 2), ((F16, F32, F16), 20)])
def test_a_shared_expert_rides_along(types, rows):
    """With the bits of an expert alone that all rows go to with the weight 1, added after the others."""
    rng = np.random.default_rng(6)
    gate, up, down = (both(types[i], 3, *[(32, 64), (64, 32)][i // 2], seed=i)[0] for i in range(3))
    other = [both(types[i], 1, *[(32, 64), (64, 32)][i // 2], seed=3 + i)[0] for i in range(3)]
    shared = SharedExpert(*(CudaMatrix(matrix.data, matrix.type, matrix.shape[1:]) for matrix in other), 1.5)
    assert rides_along(shared, gate, up, down)
    routing = routing_of(some_ids(rows, 3, 2), rng.random((rows, 2), np.float32))
    only = routing_of(np.zeros((rows, 1)), np.ones((rows, 1), np.float32))
    values, residual = normal(rng, rows, 64), on_device(normal(rng, rows, 64))
    x = rows_of(values)
    with poisoned_memory(), np.errstate(all="ignore"):
        mine = summed(LAUNCH, x, routing, gate, up, down, 2.0, shared, residual=residual)
        routed = summed(LAUNCH, x, routing, gate, up, down, 2.0)
        alone = summed(LAUNCH, x, only, *other, 1.5)
    assert_same_bits(on_host(mine), on_host(residual) + (on_host(routed) + on_host(alone)))


def test_what_rides_along_has_the_types_and_shapes_of_the_others():
    gate, down = both(F32, 2, 32, 64)[0], both(F32, 2, 64, 32)[0]
    same, narrow, half = (both(*of)[0] for of in ((F32, 1, 32, 64), (F32, 1, 16, 64), (F16, 1, 32, 64)))
    last = CudaMatrix(down.data[:64], F32, (64, 32))
    ones = [CudaMatrix(matrix.data, matrix.type, matrix.shape[1:]) for matrix in (same, narrow, half)]
    assert [rides_along(SharedExpert(one, one, last, 0.0), gate, gate, down) for one in ones] == [True, False, False]


@pytest.mark.parametrize("rows", [2, 20])
def test_a_replay_computes_anew(rows):
    """From what the same tensors hold then: rows, experts and weights."""
    rng = np.random.default_rng(8)
    gate, up, down = (both(Q8_0, 3, *[(32, 64), (64, 32)][i // 2], seed=i)[0] for i in range(3))
    weights = [rng.random((rows, 2), np.float32) for _ in range(2)]
    routings = [routing_of(some_ids(rows, 3, 2, seed=i), weights[i]) for i in range(2)]
    values = [normal(rng, rows, 64) for _ in range(2)]
    x, launch = rows_of(values[0]), Launcher()
    with launch.record() as recording:
        out = summed(launch, x, routings[0], gate, up, down, 0.0)
    x.values.copy_(on_device(values[1]))
    routings[0].ids.copy_(routings[1].ids)
    routings[0].weights.copy_(routings[1].weights)
    recording.replay()
    fresh = summed(LAUNCH, rows_of(values[1]), routings[1], gate, up, down, 0.0)
    assert_same_bits(on_host(out), on_host(fresh))


@pytest.mark.parametrize("width", [32, 48])  # as wide as the others, and wider: in their launches, and in its own
def test_the_backend_adds_a_shared_expert_of_any_width(width):
    rng, backend = np.random.default_rng(10), CudaBackend()
    routed = [both(F32, 3, *size, seed=i) for i, size in enumerate(((32, 64), (32, 64), (64, 32)))]
    alone = [both(F32, 1, *size, seed=i) for i, size in enumerate(((width, 64), (width, 64), (64, width)))]
    here = [CudaMatrix(matrix.data, F32, matrix.shape[1:]) for matrix, _ in alone]
    theirs = [REFERENCE.load_matrix(matrix.data, F32, matrix.shape[1:]) for _, matrix in alone]
    x, ids, weights = normal(rng, 3, 64), some_ids(3, 3, 2), rng.random((3, 2), np.float32)
    with np.errstate(all="ignore"):
        mine = backend.moe_ffn(
            rows_of(x), routing_of(ids, weights), *(m for m, _ in routed), 2.0, SharedExpert(*here, 1.5)
        )
    expected = REFERENCE.moe_ffn(
        x, ReferenceRouting(ids, weights), *(m for _, m in routed), 2.0, SharedExpert(*theirs, 1.5)
    )
    np.testing.assert_allclose(on_host(mine.values), expected, rtol=0, atol=1e-6 * np.abs(expected).max())
