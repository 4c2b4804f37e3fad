"""Routing and experts of the CPU backend."""

import numpy as np
import pytest
from cpu_cases import (
    BACKENDS,
    BEST,
    DECODED_TYPES,
    NATIVE_TYPES,
    assert_same_bits,
    normal,
    on_all,
    random_bytes,
    rows_alone,
    weights,
)

from stepahead import _native
from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.errors import BackendError
from stepahead.gguf import QuantType

REFERENCE = ReferenceBackend(int8_activations=True)
EXPERTS, WIDTH, HIDDEN = 9, 256, 512


def route(b, logits: np.ndarray, bias: np.ndarray | None, top_k: int, normalize: bool = True, scale: float = 3.0):
    return b.moe_route(b.upload(logits), None if bias is None else b.load_vector(bias), top_k, normalize, scale)


def ffn(b, x: np.ndarray, logits: np.ndarray, data: list[np.ndarray], types: list[QuantType], limit: float = 0.0):
    shapes = [(EXPERTS, HIDDEN, WIDTH), (EXPERTS, HIDDEN, WIDTH), (EXPERTS, WIDTH, HIDDEN)]
    matrices = [b.load_matrix(d, t, shape) for d, t, shape in zip(data, types, shapes, strict=True)]
    y = b.moe_ffn(b.upload(x), route(b, logits, None, 3), *matrices, limit)
    return y.numpy() if hasattr(y, "numpy") else y


def expert_weights(types: list[QuantType]) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = [(EXPERTS * HIDDEN, WIDTH), (EXPERTS * HIDDEN, WIDTH), (EXPERTS * WIDTH, HIDDEN)]
    return [weights(rng, t, shape) for t, shape in zip(types, shapes, strict=True)]


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("normalize", "scale"), [(True, 3.0), (False, 0.0), (True, 0.0), (False, 2.5)])
def test_routing(has_bias: bool, normalize: bool, scale: float) -> None:
    rng = np.random.default_rng(0)
    logits = 3 * normal(rng, 17, 288)
    bias = normal(rng, 288) if has_bias else None
    ids, factors = on_all(lambda b: [(r := route(b, logits, bias, 8, normalize, scale)).ids(), r.weights()])
    expected = route(REFERENCE, logits, bias, 8, normalize, scale)
    assert ids.tolist() == expected.expert_ids.tolist()
    np.testing.assert_allclose(factors, expected.weights, rtol=2e-6)
    rows_alone(lambda b, rows: route(b, logits[rows], bias, 8, normalize, scale).weights(), 17)


def test_ties_go_to_the_lowest_id_and_nan_ranks_last() -> None:
    logits = np.zeros((5, 12), np.float32)
    logits[1, 7] = logits[1, 3] = 1.0
    logits[2, [0, 5]] = np.nan
    logits[3] = np.nan
    logits[4] = -np.inf
    ids, factors = on_all(lambda b: [(r := route(b, logits, None, 4)).ids(), r.weights()])
    assert ids.tolist() == [[0, 1, 2, 3], [0, 1, 3, 7], [1, 2, 3, 4], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert np.isnan(factors[3]).all()
    assert (factors[4] == 0).all()  # the sum has a floor
    every = on_all(lambda b: route(b, logits, None, 12).ids())
    assert (every == np.arange(12)).all()


def test_a_choice_that_another_backend_has_made() -> None:
    made = route(BEST, normal(np.random.default_rng(3), 5, EXPERTS), None, 3)
    given = _native.Routing(made.ids(), made.weights(), EXPERTS)
    assert given.shape == made.shape
    assert given.ids().tolist() == made.ids().tolist()
    assert given.weights().tobytes() == made.weights().tobytes()


@pytest.mark.parametrize(
    ("ids", "weights", "message"),
    [
        ([[0, 9]], [[1, 1]], "9 at 1 is not one of the 9 experts"),
        ([[0, 1], [-1, 1]], [[1, 1], [1, 1]], "-1 at 2 is not one of the 9 experts"),
        ([[0, 1], [4, 4]], [[1, 1], [1, 1]], "4 at 3 does not ascend"),
        ([[0, 1]], [[1, 1], [1, 1]], r"ids of \(1, 2\) and weights of \(2, 2\)"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(ids: list, weights: list, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        _native.Routing(np.array(ids, np.int32), np.array(weights, np.float32), EXPERTS)


def growth(routings: list[np.ndarray]) -> tuple[int, ...]:
    """Backend.routed_experts by its definition: the ids of each layer, (rows, top_k)."""
    rows = range(min(32, max(map(len, routings), default=0)))
    pairs = [{(layer, e) for layer, ids in enumerate(routings) for e in ids[: row + 1].flat} for row in rows]
    return tuple(map(len, pairs))


@pytest.mark.parametrize("num_rows", [1, 2, 4, 31, 32, 33, 80])
def test_routed_experts_are_the_distinct_ones_of_all_layers(num_rows: int) -> None:
    rng = np.random.default_rng(num_rows)
    # Layers of other sizes, one of fewer rows; a liking of all rows for some experts makes them share.
    shapes = [(num_rows, 288, 8), (num_rows, 9, 3), ((num_rows + 1) // 2, 64, 1), (num_rows, 65, 65)]
    layers = [(normal(rng, rows, experts) + 2 * normal(rng, experts), top_k) for rows, experts, top_k in shapes]
    for b in [*BACKENDS, REFERENCE]:
        b.begin_step()
        assert b.routed_experts() == ()
        route(b, normal(rng, 40, 288), None, 8)
        b.begin_step()
        routings = [route(b, logits, None, top_k) for logits, top_k in layers]
        chosen = [r.expert_ids if b is REFERENCE else r.ids() for r in routings]
        assert b.routed_experts() == growth(chosen)
        assert b.routed_experts() == growth(chosen)  # asking changes nothing
        b.begin_step()
        assert b.routed_experts() == ()


@pytest.mark.parametrize("type", NATIVE_TYPES, ids=lambda t: t.name)
@pytest.mark.parametrize("num_rows", [1, 2, 5, 16])
def test_ffn_near_the_reference_and_alike_on_all(type: QuantType, num_rows: int) -> None:
    rng = np.random.default_rng(num_rows)
    x, logits, data = normal(rng, num_rows, WIDTH), normal(rng, num_rows, EXPERTS), expert_weights([type] * 3)
    for limit in (0.0, 0.5):
        y = on_all(lambda b, limit=limit: ffn(b, x, logits, data, [type] * 3, limit))
        expected = ffn(REFERENCE, x, logits, data, [type] * 3, limit)
        # One hidden value on the edge of two int8 steps may fall to either side: then a few 1e-4 are right.
        difference = np.abs(y - expected)
        assert np.quantile(difference, 0.9) < 1e-4
        assert difference.max() < (1e-4 if type.block_size == 1 else 5e-3)


def test_ffn_of_mixed_types_and_rows_that_do_not_know_their_neighbours() -> None:
    rng = np.random.default_rng(3)
    x, logits = normal(rng, 16, WIDTH), normal(rng, 16, EXPERTS)
    for types in (
        [QuantType.Q4_K, QuantType.Q8_0, QuantType.Q6_K],
        [QuantType.F16, QuantType.Q4_0, QuantType.F32],
        [QuantType.Q4_K, QuantType.Q3_K, QuantType.Q5_K],
        [QuantType.Q4_K, DECODED_TYPES[0], QuantType.Q5_K],
    ):
        data = expert_weights(types)
        y = on_all(lambda b, types=types, data=data: ffn(b, x, logits, data, types))
        assert np.abs(y - ffn(REFERENCE, x, logits, data, types)).max() < 5e-3 * max(1.0, np.abs(y).max())
        rows_alone(lambda b, r, types=types, data=data: ffn(b, x[r], logits[r], data, types), 16)


def test_the_slower_path_has_the_bits_of_the_native_one() -> None:
    rng = np.random.default_rng(4)
    types = [QuantType.Q4_K, QuantType.Q8_0, QuantType.Q6_K]
    x, logits, data = normal(rng, 6, WIDTH), normal(rng, 6, EXPERTS), expert_weights(types)
    shapes = [(EXPERTS, HIDDEN, WIDTH), (EXPERTS, HIDDEN, WIDTH), (EXPERTS, WIDTH, HIDDEN)]
    matrices = [BEST.load_matrix(d, t, shape) for d, t, shape in zip(data, types, shapes, strict=True)]
    slow = BEST._moe_ffn_by_expert(BEST.upload(x), route(BEST, logits, None, 3), *matrices, 0.0).numpy()
    assert_same_bits(slow, ffn(BEST, x, logits, data, types))


@pytest.mark.parametrize("type", DECODED_TYPES, ids=lambda t: t.name)
def test_experts_of_types_without_kernels(type: QuantType) -> None:
    rng = np.random.default_rng(5)
    shapes = [(EXPERTS * HIDDEN, WIDTH), (EXPERTS * HIDDEN, WIDTH), (EXPERTS * WIDTH, HIDDEN)]
    data = [random_bytes(rng, type, shape) for shape in shapes]
    x, logits = normal(rng, 3, WIDTH) / 16, normal(rng, 3, EXPERTS)
    y = ffn(BEST, x, logits, data, [type] * 3)
    expected = ffn(REFERENCE, x, logits, data, [type] * 3)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_nan_stays_in_its_row() -> None:
    rng = np.random.default_rng(6)
    types = [QuantType.Q4_K] * 3
    x, logits, data = normal(rng, 3, WIDTH), normal(rng, 3, EXPERTS), expert_weights(types)
    clean = ffn(BEST, x, logits, data, types).copy()
    x[1, 7], logits[1] = np.nan, logits[0]
    y = on_all(lambda b: ffn(b, x, logits, data, types))
    assert np.isnan(y[1]).all()
    assert_same_bits(y[[0, 2]], clean[[0, 2]])


def test_no_rows() -> None:
    data = expert_weights([QuantType.Q4_K] * 3)
    empty = np.zeros((0, WIDTH), np.float32), np.zeros((0, EXPERTS), np.float32)
    BEST.begin_step()
    assert ffn(BEST, *empty, data, [QuantType.Q4_K] * 3).shape == (0, WIDTH)
    assert BEST.routed_experts() == ()


@pytest.mark.parametrize("type", [QuantType.F32, DECODED_TYPES[0]], ids=lambda t: t.name)
def test_what_does_not_fit_is_refused(type: QuantType) -> None:
    def matrix(*shape: int):
        return BEST.load_matrix(np.zeros(type.nbytes(shape), np.uint8), type, shape)

    x, up, down = BEST.zeros(2, 256), matrix(4, 512, 256), matrix(4, 256, 512)
    routing = route(BEST, np.zeros((2, 4), np.float32), None, 2)
    other = route(BEST, np.zeros((2, 5), np.float32), None, 5)
    for bad in (
        lambda: BEST.moe_ffn(BEST.zeros(3, 256), routing, up, up, down, 0.0),
        lambda: BEST.moe_ffn(BEST.zeros(2, 512), routing, up, up, down, 0.0),
        lambda: BEST.moe_ffn(x, routing, up, matrix(4, 256, 256), down, 0.0),
        lambda: BEST.moe_ffn(x, routing, up, up, up, 0.0),
        lambda: BEST.moe_ffn(x, other, up, up, down, 0.0),
    ):
        with pytest.raises(BackendError):
            bad()
    for top_k in (0, 5):
        with pytest.raises(BackendError, match="top_k"):
            route(BEST, np.zeros((2, 4), np.float32), None, top_k)
    with pytest.raises(BackendError, match="weight"):
        route(BEST, np.zeros((2, 4), np.float32), np.zeros(5, np.float32), 2)


@pytest.mark.parametrize("hidden", [32, 96, 288, 576])
@pytest.mark.parametrize("type", [QuantType.F32, QuantType.Q8_0], ids=lambda t: t.name)
def test_hidden_layers_that_are_no_whole_chunks(type: QuantType, hidden: int) -> None:
    rng = np.random.default_rng(hidden)
    shapes = [(EXPERTS, hidden, WIDTH), (EXPERTS, hidden, WIDTH), (EXPERTS, WIDTH, hidden)]
    data = [weights(rng, type, (experts * out, width)) for experts, out, width in shapes]
    x, logits = normal(rng, 70, WIDTH), normal(rng, 70, EXPERTS)
    logits[:, 2] += 10  # the experts' shares of the rows are far from equal

    def run(b, rows=slice(None)):
        matrices = [b.load_matrix(d, type, shape) for d, shape in zip(data, shapes, strict=True)]
        y = b.moe_ffn(b.upload(x[rows]), route(b, logits[rows], None, 3), *matrices, 0.0)
        return y.numpy() if hasattr(y, "numpy") else y

    y = on_all(run)
    rows_alone(run, 4)
    difference = np.abs(y - run(REFERENCE))
    assert np.quantile(difference, 0.9) < 1e-4
