"""Fixtures that every folder of tests shares: random models, written once a session."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings

from golden.shapes import GOLDEN_SHAPES
from stepahead.gguf import QuantType
from support.random_step35 import Shape, quantised, write_model

SHAPES = {
    **{f"golden-{name}": shape for name, shape in GOLDEN_SHAPES.items()},
    "f32": Shape(),
    **{t.name.lower(): quantised(Shape(num_trunk=3), t) for t in QuantType if t.name in ("Q8_0", "Q4_K", "Q6_K")},
}
settings.register_profile("patient", deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("patient")
ModelPath = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the tests measure and repack is no business of whoever runs them, nor is what runs the tests of theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEPAHEAD_CACHE", str(tmp_path_factory.mktemp("cache")))
        if os.environ.get("TRITON_INTERPRET") != "0":  # that is make test-cuda
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> ModelPath:
    """model_path(name or Shape, part="full", **changes): a random model's file."""
    folder = tmp_path_factory.mktemp("models")
    written: dict[tuple[Shape, str], Path] = {}

    def path(model: str | Shape, part: str = "full", **changes: object) -> Path:
        shape = replace(SHAPES[model] if isinstance(model, str) else model, **changes)
        if (shape, part) not in written:
            written[shape, part] = write_model(folder / f"{len(written)}-{part}.gguf", shape, part)
        return written[shape, part]

    return path
