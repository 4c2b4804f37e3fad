"""Matrix products of the CPU backend: every type, every instruction set, against the reference."""

import numpy as np
import pytest
from cpu_cases import (
    BACKENDS,
    BEST,
    DECODED_TYPES,
    FLOAT_TYPES,
    INT8_TYPES,
    NATIVE_TYPES,
    assert_same_bits,
    normal,
    on_all,
    random_bytes,
    rows_alone,
    weights,
)

from stepahead.backends.cpu.ops import CpuBackend
from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.errors import BackendError
from stepahead.gguf import QuantType, dequantize
from support.random_codes import set_scales

REFERENCE = ReferenceBackend(int8_activations=True)


def product(
    backend: CpuBackend, x: np.ndarray, data: np.ndarray, type: QuantType, shape: tuple[int, int]
) -> np.ndarray:
    return backend.linear(backend.upload(x), backend.load_matrix(data, type, shape)).numpy()


@pytest.mark.parametrize("type", NATIVE_TYPES, ids=lambda t: t.name)
@pytest.mark.parametrize(
    ("num_rows", "num_out"),
    [(1, 1), (1, 64), (2, 8), (3, 33), (4, 9), (5, 17), (6, 32), (7, 24), (8, 40), (17, 12), (100, 33)],
)
def test_linear_near_the_reference_and_alike_on_all(type: QuantType, num_rows: int, num_out: int) -> None:
    rng = np.random.default_rng(num_rows)
    width = 768
    x, data = normal(rng, num_rows, width), weights(rng, type, (num_out, width))
    y = on_all(lambda backend: product(backend, x, data, type, (num_out, width)))
    expected = REFERENCE.linear(x, REFERENCE.load_matrix(data, type, (num_out, width)))
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("type", FLOAT_TYPES, ids=lambda t: t.name)
@pytest.mark.parametrize("width", [1, 3, 7, 8, 9, 15, 16, 17, 63, 100])
def test_widths_that_are_not_whole_vectors(type: QuantType, width: int) -> None:
    rng = np.random.default_rng(width)
    x, data = normal(rng, 5, width), weights(rng, type, (11, width))
    y = on_all(lambda backend: product(backend, x, data, type, (11, width)))
    np.testing.assert_allclose(y, x.astype(np.float64) @ dequantize(data, type).T, atol=1e-5)


@pytest.mark.parametrize("type", NATIVE_TYPES, ids=lambda t: t.name)
def test_every_bit_pattern_of_a_block(type: QuantType) -> None:
    rng = np.random.default_rng(7)
    x, data = normal(rng, 4, 512), random_bytes(rng, type, (64, 512))
    y = on_all(lambda backend: product(backend, x, data, type, (64, 512)))
    expected = REFERENCE.linear(x, REFERENCE.load_matrix(data, type, (64, 512)))
    size = np.abs(x) @ np.abs(dequantize(data, type)).T
    assert np.abs((y - expected) / size).max() < 1e-5


@pytest.mark.parametrize("type", INT8_TYPES, ids=lambda t: t.name)
@pytest.mark.parametrize("byte", [0x00, 0x7F, 0x80, 0xFF])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_largest_integers_do_not_saturate(type: QuantType, byte: int, sign: float) -> None:
    data = np.full((8, type.row_bytes(512)), byte, np.uint8)
    set_scales(data.reshape(-1, type.block_bytes), type, 0.5)
    x = np.full((3, 512), sign * 127 / 32, np.float32)  # a scale of 2^-5: no rounding but the integers'
    x[1, ::2] *= -1
    y = on_all(lambda backend: product(backend, x, data, type, (8, 512)))
    expected = x.astype(np.float64) @ dequantize(data, type).astype(np.float64).T
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("type", NATIVE_TYPES, ids=lambda t: t.name)
def test_a_row_does_not_know_its_neighbours(type: QuantType) -> None:
    rng = np.random.default_rng(1)
    x, data = normal(rng, 16, 512), weights(rng, type, (27, 512))
    rows_alone(lambda backend, rows: product(backend, x[rows], data, type, (27, 512)), 16)


@pytest.mark.parametrize("type", NATIVE_TYPES, ids=lambda t: t.name)
def test_non_finite_activations_stay_in_their_row(type: QuantType) -> None:
    rng = np.random.default_rng(2)
    x, data = normal(rng, 5, 512), weights(rng, type, (10, 512))
    clean = product(BEST, x, data, type, (10, 512)).copy()
    x[1, 300], x[2, 5], x[3, 511] = np.nan, np.inf, -np.inf
    y = on_all(lambda backend: product(backend, x, data, type, (10, 512)))
    assert not np.isfinite(y[1:4]).any()
    assert_same_bits(y[[0, 4]], clean[[0, 4]])
    if type in INT8_TYPES:
        assert np.isnan(y[1:4]).all()


@pytest.mark.parametrize("type", INT8_TYPES, ids=lambda t: t.name)
def test_activations_of_any_size(type: QuantType) -> None:
    rng = np.random.default_rng(3)
    x, data = normal(rng, 8, 512), weights(rng, type, (10, 512))
    x *= np.array([[0], [1e-45], [1e-38], [1e-35], [1e-30], [1e30], [1e37], [-1e38]], np.float32)
    y = on_all(lambda backend: product(backend, x, data, type, (10, 512)))
    assert (y[:3] == 0).all()  # below 2^-120 a block counts as zeros
    expected = x.astype(np.float64) @ dequantize(data, type).astype(np.float64).T
    for row in range(3, 8):
        assert np.abs(y[row] - expected[row]).max() < 0.1 * np.abs(expected[row]).max()


@pytest.mark.parametrize("type", NATIVE_TYPES, ids=lambda t: t.name)
def test_non_finite_scales_are_values_like_others(type: QuantType) -> None:
    rng = np.random.default_rng(4)
    data = rng.integers(0, 256, (200, type.row_bytes(256)), np.uint8)
    x = normal(rng, 3, 256)
    y = on_all(lambda backend: product(backend, x, data, type, (200, 256)))
    # An odd weight may be NaN or Inf; rows of sound blocks must be sound.
    sound = np.isfinite(dequantize(data, type)).all(axis=1) & (np.abs(dequantize(data, type)).max(axis=1) < 1e30)
    assert np.isfinite(y[:, sound]).all()


@pytest.mark.parametrize("type", NATIVE_TYPES, ids=lambda t: t.name)
def test_weights_at_any_address(type: QuantType) -> None:
    rng = np.random.default_rng(5)
    x, data = normal(rng, 2, 256), weights(rng, type, (9, 256))
    expected = product(BEST, x, data, type, (9, 256)).copy()
    for offset in (1, 2, 3):
        memory = np.zeros(data.size + 8, np.uint8)
        memory[offset : offset + data.size] = data.reshape(-1)
        odd = memory[offset : offset + data.size]
        assert_same_bits(on_all(lambda backend, odd=odd: product(backend, x, odd, type, (9, 256))), expected)


def test_linear_many_has_the_bits_of_linear() -> None:
    rng = np.random.default_rng(6)
    x = normal(rng, 3, 512)
    types = [*NATIVE_TYPES, DECODED_TYPES[0], QuantType.Q4_K]
    data = [weights(rng, type, (10 + i, 512)) for i, type in enumerate(types)]

    def many(backend: CpuBackend) -> list[np.ndarray]:
        matrices = [backend.load_matrix(d, t, (len(d), 512)) for d, t in zip(data, types, strict=True)]
        return [y.numpy() for y in backend.linear_many(backend.upload(x), matrices)]

    for y, d, t in zip(on_all(many), data, types, strict=True):
        assert_same_bits(y, product(BEST, x, d, t, (len(d), 512)))
    assert BEST.linear_many(BEST.upload(x), []) == ()


@pytest.mark.parametrize("type", DECODED_TYPES, ids=lambda t: t.name)
def test_types_without_kernels_run_too(type: QuantType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepahead.backends.cpu.matrix.TILE_ELEMENTS", 16 * 512)  # several tiles, the last one short
    rng = np.random.default_rng(8)
    x, data = normal(rng, 3, 512), random_bytes(rng, type, (37, 512))
    y = on_all(lambda backend: product(backend, x, data, type, (37, 512)))
    expected = x.astype(np.float64) @ dequantize(data, type).astype(np.float64).T
    size = np.abs(x) @ np.abs(dequantize(data, type)).T
    assert np.abs((y - expected) / size).max() < 1e-6
    rows_alone(lambda backend, rows: product(backend, x[rows], data, type, (37, 512)), 3)


def test_no_rows() -> None:
    for type in (QuantType.F32, QuantType.Q4_K, DECODED_TYPES[0]):
        matrix = BEST.load_matrix(np.zeros(type.nbytes((16, 256)), np.uint8), type, (16, 256))
        assert BEST.linear(BEST.zeros(0, 256), matrix).shape == (0, 16)


@pytest.mark.parametrize("type", [QuantType.F32, QuantType.Q8_0, DECODED_TYPES[0]])
def test_shapes_that_do_not_fit_are_refused(type: QuantType) -> None:
    backend = BACKENDS[0]
    matrix = backend.load_matrix(np.zeros(type.nbytes((4, 256)), np.uint8), type, (4, 256))
    experts = backend.load_matrix(np.zeros(type.nbytes((2, 4, 256)), np.uint8), type, (2, 4, 256))
    with pytest.raises(BackendError, match=r"\(1, 255\)"):
        backend.linear(backend.zeros(1, 255), matrix)
    with pytest.raises(BackendError, match="linear"):
        backend.linear(backend.zeros(1, 256), experts)


def test_matrices_that_are_none_are_refused() -> None:
    load = BEST.load_matrix
    with pytest.raises(BackendError, match="are 34 bytes, got 33"):
        load(np.zeros(33, np.uint8), QuantType.Q8_0, (1, 32))
    with pytest.raises(BackendError, match="multiple of the 32"):
        load(np.zeros(34, np.uint8), QuantType.Q8_0, (1, 33))
    with pytest.raises(BackendError, match="uint8"):
        load(np.zeros(8, np.float32), QuantType.F32, (1, 8))
    with pytest.raises(BackendError, match="C-contiguous"):
        load(np.zeros((4, 64), np.uint8)[:, ::2], QuantType.F32, (4, 8))
    for shape in ((8,), (1, 1, 1, 8), (0, 8), (-1, -8), ()):
        with pytest.raises(BackendError, match="a matrix is"):
            load(np.zeros(32, np.uint8), QuantType.F32, shape)


def test_a_matrix_keeps_its_memory_and_copies_nothing() -> None:
    data = np.zeros(4 * 8 * 4, np.uint8)
    data.flags.writeable = False  # as a mapped file is
    matrix = BEST.load_matrix(data, QuantType.F32, (4, 8))
    assert np.shares_memory(matrix.data, data)
    assert (matrix.shape, matrix.type, matrix.nbytes) == ((4, 8), QuantType.F32, 128)
    x = BEST.upload(np.ones((1, 8), np.float32))
    del data
    assert (BEST.linear(x, matrix).numpy() == 0).all()
