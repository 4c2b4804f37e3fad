"""The floor: which bytes a pass must read, and how fast memory is read."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from benchmarks.peers.floor import KVLayer, Weights
from benchmarks.peers.models import Shape, nbytes
from stepahead.diagnosis.bandwidth import ReadBandwidth
from stepahead.gguf import GGUFFile

WEIGHTS = Weights(
    dense=1000, output=200, experts=800, num_experts=8, top_k=2, per_head=(30, 40, 50), trunk_kv=(), head_kv=()
)  # fmt: skip


def test_every_byte_of_a_file_has_its_part(tiny_shape: Shape, tiny_model: Path) -> None:
    with GGUFFile.open(tiny_model) as file:
        weights = Weights.of(file)
        embeddings = file.tensors["token_embd.weight"].nbytes
        experts = sum(info.nbytes for name, info in file.tensors.items() if "_exps." in name)
    assert weights.experts == experts > 0
    assert weights.dense + weights.output + weights.experts + sum(weights.per_head) + embeddings == nbytes(tiny_shape)
    assert [layer.window for layer in weights.trunk_kv] == [None, 16, None]
    assert [layer.window for layer in weights.head_kv] == [16, 16, 16]
    assert weights.trunk_kv[0].row_bytes == 2 * 2 * 64 * 2  # keys and values, heads, dims, binary16


def test_a_head_without_output_matrix_reads_the_trunks(model_path: Callable[..., Path]) -> None:
    with GGUFFile.open(model_path("f32")) as own, GGUFFile.open(model_path("f32", own_head=False)) as shared:
        assert Weights.of(own).per_head == Weights.of(shared).per_head


def test_one_row_reads_the_experts_it_uses() -> None:
    assert WEIGHTS.rows(1, 0) == 1000 + 200 + 800 * 2 / 8
    assert WEIGHTS.heads(2, 0) == 30 + 40


def test_more_rows_touch_what_independent_routing_touches() -> None:
    weights = replace(WEIGHTS, num_experts=3, top_k=1)
    routes = list(product(range(3), repeat=4))  # every way in which four rows choose one of three
    mean = sum(len(set(route)) for route in routes) / len(routes)
    assert weights.expert_share(4) == pytest.approx(mean / 3)
    assert replace(WEIGHTS, top_k=8).expert_share(1) == 1
    assert replace(WEIGHTS, num_experts=0, top_k=0).expert_share(5) == 0


def test_a_window_ends_what_is_read_of_the_cache() -> None:
    assert [KVLayer(10, 4).nbytes(position) for position in (0, 2, 3, 9)] == [10, 30, 40, 40]
    assert KVLayer(10, None).nbytes(9) == 100
    weights = replace(WEIGHTS, trunk_kv=(KVLayer(10, None), KVLayer(10, 4)))
    assert weights.rows(1, 9) == WEIGHTS.rows(1, 9) + 140


def test_a_prompt_reads_the_weights_once_a_chunk() -> None:
    chunk = 1000 + 800 * WEIGHTS.expert_share(512)
    assert WEIGHTS.prompt(512) == chunk + 200
    assert WEIGHTS.prompt(1024) == pytest.approx(2 * chunk + 200)


@pytest.mark.parametrize("threads", [1, 3])
def test_bandwidth_is_measured(threads: int) -> None:
    bandwidth = ReadBandwidth(threads, nbytes=1 << 20)
    try:
        assert bandwidth.measure() > 1e6
    finally:
        bandwidth.close()
