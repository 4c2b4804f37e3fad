"""A random checkpoint in the hub's format, in a folder of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from support.hub_checkpoint import Tensors, hub_tensors, write_hub
from support.random_step35 import Shape

SHAPE = Shape(rope_freqs=False)


@pytest.fixture(scope="session")
def f32() -> Tensors:
    return hub_tensors(SHAPE)


@pytest.fixture(scope="session")
def bf16() -> Tensors:
    return hub_tensors(SHAPE, "BF16")


@pytest.fixture
def hub(tmp_path: Path, bf16: Tensors) -> Callable[..., Path]:
    """hub(tensors=…, config=…, num_files=…): its folder."""

    def write(tensors: Tensors | None = None, config: dict | None = None, num_files: int = 1) -> Path:
        return write_hub(tmp_path / "Step-Test", SHAPE, bf16 if tensors is None else tensors, config, num_files)

    return write
