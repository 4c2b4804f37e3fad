"""Interleaved weights: other places of the same bytes, the same bits of every product."""

import numpy as np
import pytest
from cpu_cases import BACKENDS, BEST, INT8_TYPES, assert_same_bits, normal, random_bytes

from stepahead import _native
from stepahead.backends.cpu.ops import CpuBackend
from stepahead.errors import BackendError
from stepahead.gguf import QuantType


def interleaved(backend: CpuBackend, data: np.ndarray, type: QuantType, shape: tuple[int, ...]) -> _native.Matrix:
    panels = np.empty(data.size, np.uint8)
    backend._context.interleave(_native.Matrix(data.reshape(-1), type.id, shape), panels)
    return _native.Matrix(panels, type.id, shape, interleaved=True)


@pytest.mark.parametrize("type", INT8_TYPES, ids=lambda t: t.name)
@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 8, 16, 17, 100])
def test_the_same_bits_as_plain_weights(type: QuantType, num_rows: int) -> None:
    rng = np.random.default_rng(num_rows)
    shape = (48, 768)
    x, data = normal(rng, num_rows, shape[1]), random_bytes(rng, type, shape)
    plain = _native.Matrix(data.reshape(-1), type.id, shape)
    expected = BACKENDS[0]._context.linear(BACKENDS[0].upload(x), plain).numpy().copy()
    for backend in BACKENDS:
        y = backend._context.linear(backend.upload(x), interleaved(backend, data, type, shape)).numpy()
        assert_same_bits(y, expected, str(backend.describe()))


@pytest.mark.parametrize("type", INT8_TYPES, ids=lambda t: t.name)
def test_experts_have_the_same_bits(type: QuantType) -> None:
    rng = np.random.default_rng(3)
    experts, hidden, width, num_rows = 4, 256, 512, 5
    x, logits = normal(rng, num_rows, width), normal(rng, num_rows, experts)
    gate, up = (random_bytes(rng, type, (experts * hidden, width)) for _ in range(2))
    down = random_bytes(rng, type, (experts * width, hidden))
    shapes = ((experts, hidden, width), (experts, hidden, width), (experts, width, hidden))
    for backend in BACKENDS:
        routing = backend.moe_route(backend.upload(logits), None, 2, True, 1.0)
        plain = [_native.Matrix(m.reshape(-1), type.id, s) for m, s in zip((gate, up, down), shapes, strict=True)]
        panels = [interleaved(backend, m, type, s) for m, s in zip((gate, up, down), shapes, strict=True)]
        context, rows = backend._context, backend.upload(x)
        expected = context.moe_ffn(rows, routing, *plain, 0.0).numpy()
        assert_same_bits(context.moe_ffn(rows, routing, *panels, 0.0).numpy(), expected, str(backend.describe()))


@pytest.mark.parametrize("type", INT8_TYPES, ids=lambda t: t.name)
def test_embed_reads_panels(type: QuantType) -> None:
    rng = np.random.default_rng(5)
    shape, ids = (64, 512), np.array([0, 17, 63, 17], np.int32)
    data = random_bytes(rng, type, shape)
    plain = _native.Matrix(data.reshape(-1), type.id, shape)
    expected = BEST._context.embed(plain, ids).numpy()
    assert_same_bits(BEST._context.embed(interleaved(BEST, data, type, shape), ids).numpy(), expected)


def test_what_cannot_be_interleaved_is_refused() -> None:
    data = np.zeros(24 * 34, np.uint8)
    with pytest.raises(BackendError, match="24 rows are not whole panels of 16"):
        interleaved(BEST, data, QuantType.Q8_0, (24, 32))
    with pytest.raises(BackendError, match="24 rows are not whole panels of 16"):
        _native.Matrix(data, QuantType.Q8_0.id, (24, 32), interleaved=True)
    with pytest.raises(BackendError, match="F32 weights have no interleaved kernel"):
        _native.Matrix(np.zeros(16 * 4, np.uint8), QuantType.F32.id, (16, 1), interleaved=True)
    matrix = _native.Matrix(np.zeros(16 * 34, np.uint8), QuantType.Q8_0.id, (16, 32))
    with pytest.raises(BackendError, match="10 bytes for a matrix of 544"):
        BEST._context.interleave(matrix, np.empty(10, np.uint8))
