"""A random model with a chat template, for all tests of the server."""

from pathlib import Path

import pytest

from stepahead.gguf import write_gguf
from support.random_step35 import Shape, metadata, model_tensors
from support.served import TEMPLATE


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chat") / "chat.gguf"
    shape = Shape()
    write_gguf(path, {**metadata(shape), "tokenizer.chat_template": TEMPLATE}, dict(model_tensors(shape)))
    return path
