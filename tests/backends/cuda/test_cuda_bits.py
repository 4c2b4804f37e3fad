"""What only a GPU can show: that a row has the same bits wherever and beside whatever it stands, and however launched.

The interpreter multiplies with BLAS, whose bits do depend on the place; so all of this waits for `make test-cuda`.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("triton")
if os.environ["TRITON_INTERPRET"] != "0":
    pytest.skip("bits of tensor cores: make test-cuda, on a machine with a GPU", allow_module_level=True)

import torch

from stepahead.backends.base import AttentionRows
from stepahead.backends.cuda.ops import CudaBackend
from stepahead.backends.cuda.rows import Rows
from stepahead.gguf.quants import QuantType

TYPES = [QuantType[name] for name in ("F32", "F16", "BF16", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_XS", "MXFP4")]
WIDTH, HEIGHT = 4096, 1536
PLACES = range(16)
MANY = 200
"""Rows of a part of a prompt: more than a tile of any kernel, and no multiple of one."""

RNG = np.random.default_rng(1)
BACKEND = CudaBackend()


def random_weights(type: QuantType, *shape: int) -> np.ndarray:
    """Random codes under tame scales: halves of about 0.01 wherever a type may keep one."""
    data = RNG.integers(0, 256, type.nbytes(shape), np.uint8)
    if type in (QuantType.F32, QuantType.F16, QuantType.BF16):
        values = RNG.standard_normal(shape, np.float32) * np.float32(0.02)
        if type == QuantType.F16:
            return values.astype(np.float16).view(np.uint8).reshape(-1)
        bits = values.reshape(-1).view(np.uint32)
        return (bits if type == QuantType.F32 else (bits >> 16).astype(np.uint16)).view(np.uint8)
    blocks = data.reshape(-1, type.block_bytes)
    half = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
    for at in {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q8_0": (0,), "IQ4_XS": (0,)}.get(type.name, ()):
        blocks[:, at : at + 2] = half
    if type == QuantType.MXFP4:
        blocks[:, 0] = 120
    return blocks.reshape(-1)


def rows_of(count: int, width: int = WIDTH) -> np.ndarray:
    """Some of them large, some tiny."""
    return RNG.standard_normal((count, width), np.float32) * np.exp2(RNG.integers(-8, 9, (count, 1))).astype(np.float32)


def neighbours(count: int, width: int, kind: str) -> np.ndarray:
    return rows_of(count, width) if kind == "random" else np.full((count, width), np.nan, np.float32)


def result(op, rows: np.ndarray) -> np.ndarray:
    return BACKEND.download(op(BACKEND.upload(rows))).copy()


def check_places(op, width: int) -> None:
    """T1, T2: of a few rows, each alone; at every place of a tile; and within a prompt."""
    probes = rows_of(3, width)
    alone = [result(op, probe[None])[0] for probe in probes]
    for kind in ("random", "NaN"):
        for count in (2, 3, 4, 8, 16):
            for place in range(count):
                batch = neighbours(count, width, kind)
                batch[place] = probes[place % 3]
                assert result(op, batch)[place].tobytes() == alone[place % 3].tobytes(), (kind, count, place)
        for place in (0, 1, 63, 64, 127, 128, MANY - 1):
            batch = neighbours(MANY, width, kind)
            batch[place] = probes[place % 3]
            assert result(op, batch)[place].tobytes() == alone[place % 3].tobytes(), (kind, MANY, place)


@pytest.mark.parametrize("type", TYPES, ids=lambda type: type.name)
def test_products(type: QuantType) -> None:
    matrix = BACKEND.load_matrix(random_weights(type, HEIGHT, WIDTH), type, (HEIGHT, WIDTH))
    check_places(lambda x: BACKEND.linear(x, matrix), WIDTH)


@pytest.mark.parametrize("type", [QuantType.Q4_K, QuantType.Q6_K, QuantType.Q8_0], ids=lambda type: type.name)
def test_experts(type: QuantType) -> None:
    experts, hidden = 32, 512
    shapes = [(experts, hidden, WIDTH), (experts, hidden, WIDTH), (experts, WIDTH, hidden)]
    gate, up, down = (BACKEND.load_matrix(random_weights(type, *shape), type, shape) for shape in shapes)
    router_type = QuantType.F32
    router = BACKEND.load_matrix(random_weights(router_type, experts, WIDTH), router_type, (experts, WIDTH))

    def ffn(x: Rows) -> Rows:
        BACKEND.begin_step()
        routing = BACKEND.moe_route(BACKEND.linear(x, router), None, 8, True, 3.0)
        return BACKEND.moe_ffn(x, routing, gate, up, down, 7.0)

    check_places(ffn, WIDTH)


def test_rows_to_rows() -> None:
    weight = BACKEND.load_vector(RNG.standard_normal(WIDTH).astype(np.float32))
    check_places(lambda x: BACKEND.rms_norm(x, weight, 1e-5), WIDTH)
    check_places(lambda x: BACKEND.swiglu(x, x, 7.0), WIDTH)


@pytest.mark.parametrize("kv_type", ["f16", "f32", "q8_0"])
@pytest.mark.parametrize("window", [None, 512])
def test_attention(kv_type: str, window: int | None) -> None:
    """A row after a long past: alone, among those before and after it, in other blocks of memory, beside others."""
    length, kv_heads, heads, head_dim = 1500, 2, 16, 128
    keys, values = rows_of(length, kv_heads * head_dim), rows_of(length, kv_heads * head_dim)
    queries = rows_of(length, heads * head_dim)

    def outputs(first: int, last: int, order: np.ndarray) -> np.ndarray:
        BACKEND.begin_step()
        kv = BACKEND.new_kv(64, kv_heads, head_dim, kv_type)
        for plane in (kv.keys, kv.key_scales):  # memory that nobody wrote: NaN, but of values always numbers
            plane.view(torch.uint8).fill_(255)
        for plane in (kv.values, kv.value_scales):
            plane.fill_(100)
        positions = np.arange(length, dtype=np.int32)
        tables = order[None, : -(-length // 64)].astype(np.int32)
        slots = (tables[0, positions // 64] * 64 + positions % 64).astype(np.int32)

        def rows(first: int, last: int) -> AttentionRows:
            at = positions[first:last]
            first_keys = np.zeros_like(at) if window is None else np.maximum(at - window + 1, 0).astype(np.int32)
            return AttentionRows(at.copy(), first_keys, np.zeros_like(at), tables, slots[first:last].copy())

        BACKEND.kv_write(kv, BACKEND.upload(keys[:last]), BACKEND.upload(values[:last]), rows(0, last))
        q = BACKEND.upload(queries[first:last])
        return BACKEND.download(BACKEND.attention(q, kv, rows(first, last), head_dim**-0.5)).copy()

    whole = outputs(0, length, np.arange(64))
    for first, last in ((0, 1), (63, 67), (511, 514), (1023, 1025), (1400, 1416), (700, 900), (1499, 1500)):
        again = outputs(first, last, RNG.permutation(64))
        assert again.tobytes() == whole[first:last].tobytes(), (first, last)


@pytest.mark.parametrize("type", [QuantType.Q4_K, QuantType.Q6_K], ids=lambda type: type.name)
def test_a_graph_has_the_bits_of_its_launches(type: QuantType) -> None:
    """T3"""
    matrix = BACKEND.load_matrix(random_weights(type, HEIGHT, WIDTH), type, (HEIGHT, WIDTH))
    weight = BACKEND.load_vector(RNG.standard_normal(WIDTH).astype(np.float32))
    x = BACKEND.upload(rows_of(4))

    def step() -> Rows:
        return BACKEND.linear(BACKEND.rms_norm(x, weight, 1e-5), matrix)

    step()  # compiled, and out of the way
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for _ in range(3):
        x.values.copy_(torch.from_numpy(rows_of(4)))
        graph.replay()
        replayed = BACKEND.download(captured).copy()
        assert replayed.tobytes() == BACKEND.download(step()).tobytes()


def digest() -> str:
    """Of products of every type, from fixed numbers."""
    found = hashlib.sha256()
    for type in TYPES:
        matrix = BACKEND.load_matrix(random_weights(type, 512, WIDTH), type, (512, WIDTH))
        found.update(result(lambda x, matrix=matrix: BACKEND.linear(x, matrix), rows_of(4)).tobytes())
    return found.hexdigest()


def test_another_process_that_compiles_anew_has_the_same_bits(tmp_path: Path) -> None:
    """T4: nothing is tuned by time, so that a version of Triton and an architecture say which bits there are."""
    program = "import test_cuda_bits as t; print(t.digest())"
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    found = [
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path / str(run)), "PYTHONPATH": paths},
        ).stdout
        for run in range(2)
    ]
    assert found[0] == found[1] != ""
