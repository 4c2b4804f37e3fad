"""What recorded passes are planned to take: every result at its place, and more for each thing that is recorded."""

from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pytest

from stepahead.backends.base import Backend
from stepahead.backends.cpu.ops import CpuBackend
from stepahead.backends.cuda.recorded import NUM_ROWS
from stepahead.gguf import GGUFFile
from stepahead.memory.device_meter import DeviceMeter
from stepahead.memory.recorded_passes import NODE_NBYTES, RecordedPasses
from stepahead.models.draft_vocab import CAPACITY
from stepahead.models.model import Model
from stepahead.models.registry import load_model

SHORT = RecordedPasses.of(2048, 1, num_frequent=64)
VOCAB = 1 << 16


@pytest.fixture(scope="module")
def planned(model_path) -> Iterator[tuple[Model, DeviceMeter]]:
    meter = DeviceMeter(cast(Backend, CpuBackend(threads=1)))
    with GGUFFile.open(model_path("f32")) as file:
        model = load_model(file, cast(Backend, meter), file)
        model.vocab_size = VOCAB
        yield model, meter


def test_widths_and_rows_that_can_be():
    assert [RecordedPasses.of(length, 1, None).num_widths for length in (1, 2048, 2049, 8192, 1 << 20)] == [
        1, 1, 2, 2, 5,
    ]  # fmt: skip
    assert [RecordedPasses.of(64, seqs, None).num_sequences for seqs in (1, 6, 40)] == [1, 6, 16]


def test_logits_of_every_number_of_rows_stay(planned: tuple[Model, DeviceMeter]) -> None:
    logits = 4 * VOCAB * sum(NUM_ROWS)
    short = SHORT.nbytes(*planned)
    assert short > logits
    wider = replace(SHORT, num_widths=2).nbytes(*planned)
    assert wider - short > logits


def test_graphs_are_counted_by_their_launches(planned: tuple[Model, DeviceMeter]) -> None:
    """Ten a layer, at least; most of them of the trunk."""
    layers = planned[0].num_trunk_layers
    assert SHORT.nbytes(*planned) > NODE_NBYTES * 10 * layers * len(NUM_ROWS)


def test_heads_without_a_shortlist_keep_all_logits(planned: tuple[Model, DeviceMeter]) -> None:
    many = replace(SHORT, num_sequences=16)
    plain = replace(many, num_frequent=None)
    fewer = VOCAB - 64 - CAPACITY
    assert plain.nbytes(*planned) - many.nbytes(*planned) > 3 * 4 * fewer * sum(NUM_ROWS)
    assert plain.nbytes(*planned) - replace(plain, num_sequences=1).nbytes(*planned) > 3 * 4 * VOCAB * sum(NUM_ROWS)


def test_cycles_of_every_number_of_sequences_and_heads(planned: tuple[Model, DeviceMeter]) -> None:
    model = planned[0]
    assert SHORT.cycles(model) == [(1, depth) for depth in range(4)]
    many = replace(SHORT, num_sequences=16).cycles(model)
    assert len(many) == 33
    assert {(16, 0), (8, 1), (5, 2), (4, 3)} <= set(many)
    assert not {(9, 1), (6, 2), (5, 3)} & set(many)
    graphs = NODE_NBYTES * 10 * model.num_trunk_layers * (33 - 4)
    assert replace(SHORT, num_sequences=16).nbytes(*planned) - SHORT.nbytes(*planned) > graphs


def test_without_cycles_it_is_less(planned: tuple[Model, DeviceMeter]) -> None:
    graphs = NODE_NBYTES * 10 * planned[0].num_trunk_layers * 4
    assert SHORT.nbytes(*planned) - replace(SHORT, has_cycles=False).nbytes(*planned) > graphs


def test_what_is_handed_over_stays_for_every_pass(planned: tuple[Model, DeviceMeter]) -> None:
    rows = sum(NUM_ROWS)
    assert SHORT.hand_over_nbytes(planned[0]) == 2 * 4 * planned[0].hidden_size * rows
    assert replace(SHORT, num_widths=3).hand_over_nbytes(planned[0]) == 6 * 4 * planned[0].hidden_size * rows


def test_asked_again_it_is_the_same(planned: tuple[Model, DeviceMeter]) -> None:
    assert SHORT.nbytes(*planned) == SHORT.nbytes(*planned)
