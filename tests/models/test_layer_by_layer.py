"""Teacher-forced, layer by layer: the CPU backend against the reference with int8 activations, every layer and head.

Each layer of either backend is given the reference's input, so that differences cannot pile up.
"""

import numpy as np
import pytest

from stepahead.backends.base import Backend
from stepahead.backends.cpu.ops import CpuBackend
from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.engine.batch import RowSpan, attention_rows
from stepahead.gguf import GGUFFile, QuantType
from stepahead.models.layers import Block
from stepahead.models.step35 import Step35
from support.random_step35 import Shape, quantised

IDS = np.random.default_rng(2).integers(0, 256, 70).astype(np.int32)  # more than four windows
TOLERANCE = 1e-4
# Activations a rounding apart may fall to either side of an int8 step (docs/numerics.md). One such value moves its row,
# and through keys and values the rows whose window it is in, by up to a hundredth.
STEPPED_SHARE, STEPPED_TOLERANCE = 0.25, 1e-2
FLOATS = ("F32", "F16", "BF16")
TYPES = (*FLOATS, "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K")


class Stage:
    """A model on a backend, with KV for one sequence."""

    def __init__(self, path, backend: Backend) -> None:
        self.backend = backend
        file = GGUFFile.open(path)
        self.model = Step35(file, backend, file)
        self.kv = [backend.new_kv(2, spec.num_kv_heads, spec.head_dim, "f32") for spec in self.model.layers]

    def run(self, block: Block, x: np.ndarray) -> np.ndarray:
        spec = block.spec
        rows = attention_rows([RowSpan(0, len(IDS), [1, 0])], spec.window)
        rope = self.backend.rope_table(spec.rope, rows.positions)
        out = block(self.backend, self.backend.upload(x), self.model.config.eps, rope, rows, self.kv[spec.index])
        return self.backend.download(out)


@pytest.mark.parametrize("name", TYPES)
def test_every_layer(name: str, model_path) -> None:
    path = model_path(quantised(Shape(seed=8), QuantType[name]))
    reference, cpu = Stage(path, ReferenceBackend(int8_activations=True)), Stage(path, CpuBackend(threads=2))
    x = reference.backend.embed(reference.model.token_embd, IDS)
    assert (cpu.backend.download(cpu.backend.embed(cpu.model.token_embd, IDS)) == x).all()
    pairs = [
        *zip(reference.model.blk, cpu.model.blk, strict=True),
        *((a.block, b.block) for a, b in zip(reference.model.heads, cpu.model.heads, strict=True)),
    ]
    assert len(pairs) == 7
    for block, twin in pairs:
        expected, found = reference.run(block, x), cpu.run(twin, x)
        difference = np.abs(found - expected).max(axis=1)
        place = f"{name}, layer {block.spec.index}"
        assert np.median(difference) < 1e-6, place
        assert difference.max() < (TOLERANCE if name in FLOATS else STEPPED_TOLERANCE), place
        assert np.mean(difference > TOLERANCE) <= STEPPED_SHARE, place
        x = expected
