"""The specification itself: each op against its formula written out for one element, and rows that know no others."""

import math

import numpy as np
import pytest

from stepahead.backends.base import AttentionRows, Rope, SharedExpert
from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.engine.batch import RowSpan, attention_rows
from stepahead.errors import BackendError
from stepahead.gguf import QuantType, quantize

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


@pytest.fixture
def backend() -> ReferenceBackend:
    return ReferenceBackend()


def matrix(backend: ReferenceBackend, values: np.ndarray, type: QuantType = QuantType.F32):
    return backend.load_matrix(quantize(values, type), type, values.shape)


def test_linear_is_a_dot_a_row(backend: ReferenceBackend) -> None:
    x, w = normal(3, 40), normal(7, 40)
    expected = [[math.fsum(float(a) * float(b) for a, b in zip(row, out, strict=True)) for out in w] for row in x]
    np.testing.assert_allclose(backend.linear(x, matrix(backend, w)), expected, atol=1e-5)


def test_linear_many_is_linear_of_each(backend: ReferenceBackend) -> None:
    x, matrices = normal(2, 16), [matrix(backend, normal(rows, 16)) for rows in (3, 5)]
    for out, w in zip(backend.linear_many(x, matrices), matrices, strict=True):
        assert (out == backend.linear(x, w)).all()


def test_embed_picks_rows(backend: ReferenceBackend) -> None:
    values = normal(9, 64)
    table = matrix(backend, values, QuantType.Q8_0)
    out = backend.embed(table, np.array([8, 0, 8], np.int32))
    assert (out == table.values()[[8, 0, 8]]).all()
    np.testing.assert_allclose(out, values[[8, 0, 8]], atol=0.02)


@pytest.mark.parametrize("type", [QuantType.F32, QuantType.F16, QuantType.Q8_0, QuantType.Q4_K, QuantType.Q6_K])
@pytest.mark.parametrize("int8", [False, True])
def test_rows_do_not_know_their_neighbours(type: QuantType, int8: bool) -> None:
    backend = ReferenceBackend(int8)
    x, w = normal(9, 256), matrix(backend, normal(33, 256), type)
    together = backend.linear(x, w)
    for count in range(1, 9):
        assert backend.linear(x[:count], w).tobytes() == together[:count].tobytes()


@pytest.mark.parametrize("type", [QuantType.Q8_0, QuantType.Q4_0, QuantType.Q4_K, QuantType.Q5_K, QuantType.Q6_K])
def test_int8_activations_stay_near_exact_ones(type: QuantType) -> None:
    x, w = normal(4, 512), normal(16, 512)
    exact, int8 = ReferenceBackend(), ReferenceBackend(int8_activations=True)
    difference = np.abs(exact.linear(x, matrix(exact, w, type)) - int8.linear(x, matrix(int8, w, type)))
    assert 0 < difference.max() < 1.0  # outputs have a standard deviation of 22


def test_rms_norm(backend: ReferenceBackend) -> None:
    x, weight = normal(2, 8), normal(1, 8)
    mean = sum(float(v) ** 2 for v in x[1]) / 8
    expected = [float(v) / math.sqrt(mean + 1e-5) * float(w) for v, w in zip(x[1], weight[0], strict=True)]
    np.testing.assert_allclose(backend.rms_norm(x, weight, 1e-5)[1], expected, rtol=1e-6)


def test_rope_turns_half_split_pairs_and_leaves_the_rest(backend: ReferenceBackend) -> None:
    head_dim, factors = 8, np.array([1.0, 2.0], np.float32)
    rope = Rope(num_rotated=4, theta=100.0, factors=factors)
    x, position = normal(1, head_dim), 3
    table = backend.rope_table(rope, np.array([position], np.int32))
    out = backend.qk_norm_rope(x, None, 1e-5, table, head_dim)[0]
    for j in range(2):
        angle = position * 100.0 ** (-2 * j / 4) / factors[j]
        a, b = float(x[0, j]), float(x[0, j + 2])
        assert out[j] == pytest.approx(a * math.cos(angle) - b * math.sin(angle), abs=1e-6)
        assert out[j + 2] == pytest.approx(a * math.sin(angle) + b * math.cos(angle), abs=1e-6)
    assert (out[4:] == x[0, 4:]).all()


def test_qk_norm_is_per_head_and_before_the_rotation(backend: ReferenceBackend) -> None:
    x, weight = normal(2, 3 * 4), normal(1, 4)
    table = backend.rope_table(Rope(2, 10.0), np.array([0, 0], np.int32))
    out = backend.qk_norm_rope(x, weight, 1e-5, table, 4)
    np.testing.assert_allclose(out[1, 4:8], backend.rms_norm(x[1:, 4:8], weight, 1e-5)[0], rtol=1e-6)


@pytest.mark.parametrize(("kv_type", "tolerance"), [("f32", 1e-6), ("f16", 2e-3), ("q8_0", 5e-2)])
@pytest.mark.parametrize("window", [None, 20])
def test_attention_over_scattered_blocks(kv_type: str, tolerance: float, window: int | None) -> None:
    backend, heads, kv_heads, dim, count = ReferenceBackend(), 4, 2, 32, 150
    q, k, v = normal(count, heads * dim), normal(count, kv_heads * dim), normal(count, kv_heads * dim)
    kv = backend.new_kv(9, kv_heads, dim, kv_type)
    kv.k[:], kv.v[:] = np.nan, np.nan  # stale memory may hold anything
    rows = attention_rows([RowSpan(0, count, [7, 0, 4])], window)
    backend.kv_write(kv, k, v, rows)
    out = backend.attention(q, kv, rows, 0.3).reshape(count, heads, dim)
    for row, head in [(0, 0), (63, 1), (64, 2), (149, 3)]:
        first = 0 if window is None else max(0, row - window + 1)
        keys = k.reshape(count, kv_heads, dim)[first : row + 1, head // 2].astype(np.float64)
        values = v.reshape(count, kv_heads, dim)[first : row + 1, head // 2].astype(np.float64)
        scores = keys @ q.reshape(count, heads, dim)[row, head] * 0.3
        weights = np.exp(scores - scores.max())
        np.testing.assert_allclose(out[row, head], weights @ values / weights.sum(), atol=tolerance)


def test_a_row_sees_no_key_below_first_valid() -> None:
    backend = ReferenceBackend()
    rows = attention_rows([RowSpan(4, 6, [0], first_valid=5)], None)
    kv = backend.new_kv(1, 1, 4, "f32")
    v = normal(2, 4)
    backend.kv_write(kv, normal(2, 4), v, rows)
    np.testing.assert_array_equal(
        backend.attention(normal(2, 4), kv, AttentionRows(
            rows.positions[1:], rows.first_keys[1:], rows.sequences[1:], rows.block_tables, rows.slots[1:]
        ), 1.0)[0],
        v[1],
    )  # fmt: skip


def test_head_gate(backend: ReferenceBackend) -> None:
    x, gate = normal(2, 6), normal(2, 3)
    expected = float(x[1, 5]) / (1 + math.exp(-float(gate[1, 2])))
    assert backend.head_gate(x, gate)[1, 5] == pytest.approx(expected, rel=1e-6)


def test_swiglu_clamps_after_the_activation(backend: ReferenceBackend) -> None:
    gate, up = np.array([[10.0, -10.0, 0.5]], np.float32), np.array([[9.0, -9.0, 0.25]], np.float32)
    silu = gate / (1 + np.exp(-gate))
    np.testing.assert_allclose(backend.swiglu(gate, up, 0.0), silu * up, rtol=1e-6)
    np.testing.assert_allclose(backend.swiglu(gate, up, 0.7), np.minimum(silu, 0.7) * up.clip(-0.7, 0.7), rtol=1e-6)


def test_routing_selects_with_the_bias_and_weighs_without(backend: ReferenceBackend) -> None:
    logits = np.array([[2.0, 0.0, 0.0, -1.0]], np.float32)
    bias = np.array([[-1.0, 0.0, 0.0, 1.0]], np.float32)
    routing = backend.moe_route(logits, bias, 2, normalize=True, scale=3.0)
    sigmoid = 1 / (1 + np.exp(-logits[0]))
    assert routing.expert_ids.tolist() == [[1, 3]]  # 1 and 2 tie: the lowest id wins
    np.testing.assert_allclose(routing.weights[0], 3 * sigmoid[[1, 3]] / sigmoid[[1, 3]].sum(), rtol=1e-6)
    plain = backend.moe_route(logits, None, 1, normalize=False, scale=0.0)
    assert plain.expert_ids.tolist() == [[0]] and plain.weights[0, 0] == pytest.approx(sigmoid[0])


def test_moe_ffn_sums_its_experts(backend: ReferenceBackend) -> None:
    x, gate, up, down = normal(3, 8), normal(4, 6, 8), normal(4, 6, 8), normal(4, 8, 6)
    routing = backend.moe_route(normal(3, 4), None, 2, normalize=True, scale=1.0)
    matrices = [matrix(backend, w) for w in (gate, up, down)]
    out = backend.moe_ffn(x, routing, *matrices, 0.0)
    for row in range(3):
        expected = sum(
            weight * down[e] @ backend.swiglu((gate[e] @ x[row])[None], (up[e] @ x[row])[None], 0.0)[0]
            for e, weight in zip(routing.expert_ids[row], routing.weights[row], strict=True)
        )
        np.testing.assert_allclose(out[row], expected, atol=1e-5)


def test_moe_ffn_adds_a_shared_expert(backend: ReferenceBackend) -> None:
    x, sizes = normal(3, 8), ((6, 8), (6, 8), (8, 6))
    routing = backend.moe_route(normal(3, 4), None, 2, normalize=True, scale=1.0)
    routed = [matrix(backend, normal(4, *size)) for size in sizes]
    gate, up, down = (matrix(backend, normal(*size)) for size in sizes)
    out = backend.moe_ffn(x, routing, *routed, 0.0, SharedExpert(gate, up, down, 0.5))
    alone = backend.linear(backend.swiglu(backend.linear(x, gate), backend.linear(x, up), 0.5), down)
    np.testing.assert_array_equal(out, backend.moe_ffn(x, routing, *routed, 0.0) + alone)


def test_argmax_takes_the_lowest_of_ties_and_never_nan(backend: ReferenceBackend) -> None:
    x = np.array([[1, 3, 3, np.nan], [np.nan] * 4], np.float32)
    assert backend.argmax(x).tolist() == [1, 0]


def test_rows_move(backend: ReferenceBackend) -> None:
    x = normal(4, 3)
    target = backend.zeros(6, 3)
    backend.copy_rows(target, 3, x, 1, 2)
    assert (target[3:5] == x[1:3]).all() and not target[:3].any() and not target[5].any()
    assert (backend.gather_rows(x, np.array([3, 3, 0], np.int32)) == x[[3, 3, 0]]).all()
    assert (backend.concat(x, x)[:, 3:] == x).all() and (backend.add(x, x) == 2 * x).all()


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8_0"])
def test_a_block_is_copied_whole(kv_type: str) -> None:
    backend = ReferenceBackend()
    kv = backend.new_kv(3, 2, 32, kv_type)
    rows = attention_rows([RowSpan(0, 150, [0, 1, 2])], None)
    backend.kv_write(kv, normal(150, 64), normal(150, 64), rows)
    before = [part.copy() for part in (kv.k, kv.v)]
    backend.copy_block(kv, 0, 1)
    for part, old in zip((kv.k, kv.v), before, strict=True):
        assert (part[64:128] == old[:64]).all() and not (old[:64] == old[64:128]).all()
        assert (part[:64] == old[:64]).all() and (part[128:150] == old[128:150]).all()


@pytest.mark.parametrize("kv_type", ["f32", "f16", "q8_0"])
def test_a_block_is_read_and_written(kv_type: str) -> None:
    backend = ReferenceBackend()
    kv, other = (backend.new_kv(count, 2, 32, kv_type) for count in (3, 5))
    backend.kv_write(kv, normal(150, 64), normal(150, 64), attention_rows([RowSpan(0, 150, [0, 1, 2])], None))
    whole, part = backend.read_block(kv, 1, 64), backend.read_block(kv, 1, 10)
    assert whole.shape == (kv.nbytes // 3,) and whole.dtype == np.uint8
    for block, data, kept in ((4, whole, 64), (2, part, 10)):
        backend.write_block(other, block, data)
        at = slice(64 * block, 64 * block + kept)
        assert (other.k[at] == kv.k[64 : 64 + kept]).all() and (other.v[at] == kv.v[64 : 64 + kept]).all()
        assert not other.k[at.stop : 64 * block + 64].any() and not other.v[at.stop : 64 * block + 64].any()
    kv.k[64:128] = 0
    assert whole.any(), "a copy"
    with pytest.raises(BackendError, match="write_block"):
        backend.write_block(kv, 0, whole[:-2])
