"""Logits that stay where they are while the backend chooses; and whom it may choose for."""

import numpy as np
import pytest

from stepahead.engine.logit_rows import LogitRows, sample_rows
from stepahead.engine.params import SamplingParams, Speculation
from stepahead.engine.request import Request, Sequence, SequenceKV
from stepahead.engine.sampler import Sampled, Sampler, SamplerState
from stepahead.models.model import ForwardOutput


class Chosen:
    """A backend that chose token 7 in row 0 and left row 1 to the host."""

    def ids(self) -> np.ndarray:
        return np.array([7, -1], np.int32)

    def margins(self) -> np.ndarray:
        return np.array([1.5, 0.0], np.float32)


class CountingBackend:
    num_downloads = 0

    def download(self, x: np.ndarray) -> np.ndarray:
        self.num_downloads += 1
        return x


def sequence_of(seed: int = 5, **params) -> Sequence:
    request = Request(0, (1, 2), SamplingParams(**params), Speculation(), seed, 100, frozenset())
    return Sequence(request, SequenceKV(1, 0))


def test_logits_are_fetched_once_and_only_if_somebody_looks() -> None:
    backend, logits = CountingBackend(), np.array([[0, 1, 0], [3, 0, 2]], np.float32)
    rows = LogitRows.of_pass(backend, ForwardOutput(logits, logits, sampled=Chosen()))
    state = SamplerState.of(sequence_of())
    rows.wait()
    assert len(rows) == 2 and rows.choose(0, Sampler(), state, 2) == Sampled(7, 1.5)
    assert backend.num_downloads == 0
    assert rows.choose(1, Sampler(), state, 3).token_id == 0
    assert rows.values is rows.values and backend.num_downloads == 1


def test_a_pass_without_logits_has_no_rows() -> None:
    assert len(LogitRows.of_pass(CountingBackend(), ForwardOutput(None, np.zeros((3, 2), np.float32)))) == 0


@pytest.mark.parametrize(
    ("params", "is_plain"),
    [
        ({"temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1}, True),
        ({"logprobs": 2}, True),
        ({"repetition_penalty": 1.1}, False),
        ({"presence_penalty": 0.5}, False),
        ({"frequency_penalty": 0.5}, False),
        ({"logit_bias": {3: 1.0}}, False),
    ],
)
def test_what_looks_at_ids_is_left_to_the_host(params, is_plain) -> None:
    rows = sample_rows([(sequence_of(), 9), (sequence_of(2**64 - 1, **params), 2**40)])
    assert rows.is_plain.tolist() == [True, is_plain]
    assert rows.seeds.tolist() == [5, 2**64 - 1] and rows.positions.tolist() == [9, 2**40]
    assert rows.temperatures[1] == sequence_of(**params).request.params.temperature
    assert rows.top_k.tolist() == [0, params.get("top_k", 0)]
