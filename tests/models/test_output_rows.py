"""Heads that compute only keys and values of some rows: the others, now and later, have the bits they always have."""

import numpy as np
import pytest

from stepahead.backends.cpu.ops import CpuBackend
from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.engine.batch import RowSpan
from stepahead.engine.runner import ModelRunner
from stepahead.gguf import GGUFFile
from stepahead.models.registry import load_model
from support.random_step35 import Shape

SHAPE = Shape(hidden=64, head_dim=32, num_trunk=2, num_experts=4, width=64, vocab=300, full_period=2, window=16)
NUM_ROWS = 40


@pytest.mark.parametrize("make_backend", [ReferenceBackend, lambda: CpuBackend(threads=2)])
@pytest.mark.parametrize("changes", [{}, {"mtp_sliding": False}])
@pytest.mark.parametrize("wanted", [[], [39], [0, 17, 38, 39], list(range(20, 40))])
def test_rows_left_out_change_no_bit_of_the_others(model_path, make_backend, changes: dict, wanted: list[int]) -> None:
    file, backend = GGUFFile.open(model_path(SHAPE, **changes)), make_backend()
    model = load_model(file, backend, file)
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 300, NUM_ROWS + 1).astype(np.int32)
    values = rng.normal(size=(NUM_ROWS + 1, model.hidden_size)).astype(np.float32)

    def run(output_rows: list[int] | None) -> tuple[np.ndarray, list[np.ndarray]]:
        """The hidden rows of a pass over NUM_ROWS rows; logits of its last wanted row, and of a row after it."""
        runner = ModelRunner.create(model, backend, "f32", 64, 1, 64)
        logits = []
        number = None if output_rows is None else np.array(output_rows, np.int32)
        last = np.array([39] if output_rows != [] else [], np.int32)
        span = RowSpan(0, NUM_ROWS, [0])
        output = runner.draft_forward(0, [span], ids[:-1], backend.upload(values[:-1]), last, number)
        hidden = backend.download(output.hidden).copy()
        if output.logits is not None:
            logits.append(backend.download(output.logits).copy())
        span = RowSpan(NUM_ROWS, NUM_ROWS + 1, [0])
        output = runner.draft_forward(0, [span], ids[-1:], backend.upload(values[-1:]), np.zeros(1, np.int32))
        return hidden, [*logits, backend.download(output.logits).copy()]

    all_hidden, all_logits = run(None)
    hidden, logits = run(wanted)
    assert hidden.shape == (len(wanted), model.hidden_size)
    assert np.array_equal(hidden, all_hidden[wanted])
    assert all(np.array_equal(a, b) for a, b in zip(reversed(logits), reversed(all_logits), strict=False))
    assert len(logits) == 1 + bool(wanted)
