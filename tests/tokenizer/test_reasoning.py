"""Reasoning apart from content, whether or not its end is a control token."""

import pytest

from stepahead.tokenizer import Tokenizer, split_reasoning


@pytest.fixture(params=["control", "user-defined"])
def tokenizer(request: pytest.FixtureRequest, model_path) -> Tokenizer:
    from stepahead.gguf import GGUFFile

    metadata = dict(GGUFFile.open(model_path("f32")).metadata)
    if request.param == "user-defined":
        tokens = metadata["tokenizer.ggml.tokens"]
        types = metadata["tokenizer.ggml.token_type"].copy()
        types[[tokens.index("<think>"), tokens.index("</think>")]] = 4
        metadata["tokenizer.ggml.token_type"] = types
    return Tokenizer.from_metadata(metadata)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("because\n</think>\nso", ("because", "so")),
        ("because\n\n</think>\n\n so", ("because\n", "\n so")),
        ("<think>\nbecause\n</think>\nso", ("because", "so")),
        ("</think>", ("", "")),
        ("never ends", (None, "never ends")),
    ],
)
def test_split(tokenizer: Tokenizer, text: str, expected: tuple[str | None, str]) -> None:
    assert split_reasoning(tokenizer, tokenizer.encode(text)) == expected
