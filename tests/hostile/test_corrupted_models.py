"""A damaged model file gives one line, or runs: no crash, no hang, no traceback of ours, whatever the damage."""

import random
from pathlib import Path

import pytest

from stepahead import LLM, SamplingParams
from stepahead.errors import StepaheadError
from stepahead.gguf import GGUFFile, QuantType
from support.random_step35 import Shape, quantised, write_model

SHAPES = {
    "f32": Shape(hidden=32, head_dim=16, num_trunk=2, num_experts=4, width=64, vocab=300, full_period=2),
    "q4_k": quantised(Shape(num_trunk=2, num_heads_mtp=1, vocab=300), QuantType.Q4_K),
}
NUM_FILES = 60
WORDS = (b"\xff" * 8, b"\0" * 8, (2**63).to_bytes(8, "little"), (2**31 - 1).to_bytes(8, "little"), b"\1" + b"\0" * 7)


def damage(data: bytearray, header_size: int, rng: random.Random) -> bytearray:
    kind = rng.choice(["bits", "word", "cut", "weights", "zeros"])
    if kind == "bits":
        for _ in range(rng.choice([1, 2, 20])):
            data[rng.randrange(header_size)] ^= 1 << rng.randrange(8)
    elif kind == "word":
        at = rng.randrange(header_size - 8)
        data[at : at + 8] = rng.choice(WORDS)
    elif kind == "cut":
        return data[: rng.randrange(len(data))]
    elif kind == "weights":
        for _ in range(200):
            data[rng.randrange(header_size, len(data))] ^= 0xFF
    else:
        at = rng.randrange(len(data) - 4000)
        data[at : at + 4000] = bytes(4000)
    return data


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("seed", [1, 2])
def test_damage_is_named_or_survived(tmp_path: Path, name: str, seed: int) -> None:
    sound = write_model(tmp_path / "sound.gguf", SHAPES[name])
    with GGUFFile.open(sound) as file:
        header_size = min(info.offset for info in file.tensors.values())
    rng, path, num_refused = random.Random(seed), tmp_path / "damaged.gguf", 0
    for _ in range(NUM_FILES):
        path.write_bytes(damage(bytearray(sound.read_bytes()), header_size, rng))
        try:
            with LLM(path, threads=1) as llm:
                llm.generate([1, 2, 3, 4, 5], SamplingParams(max_tokens=6))
        except StepaheadError as error:
            num_refused += 1
            assert "\n" not in str(error) and len(str(error)) < 1000
    assert NUM_FILES // 4 < num_refused < NUM_FILES  # the damage bites, and not always
