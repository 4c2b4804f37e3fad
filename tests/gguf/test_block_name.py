"""Numbers of blocks are read from names that may be anything."""

from pathlib import Path

import pytest

from stepahead.errors import ModelFormatError
from stepahead.gguf.block_name import block_number, check_blocks, shown

NUMBERS = {
    "blk.0.attn_q.weight": 0,
    "blk.3.attn_q.weight": 3,
    "blk.47.nextn.eh_proj.weight": 47,
    "blk.3.": 3,
    "token_embd.weight": -1,
    "a.blk.3.b": -1,
    "blk.3": -1,
    "blk.x.y": -1,
    "blk..y": -1,
    "blk.-1.y": -1,
    "blk.+1.y": -1,
    "blk. 1.y": -1,
    "blk.1_0.y": -1,
    "blk.007.y": -1,
    "blk.é.y": -1,
    "blk.٣.y": -1,  # digits to Python, not to anybody else
    "blk.².y": -1,
    "blk.99999999999999999999999.y": -1,
    f"blk.{'9' * 5000}.y": -1,
}


@pytest.mark.parametrize("name", NUMBERS, ids=lambda name: name[:30])
def test_numbers(name: str) -> None:
    assert block_number(name) == NUMBERS[name]


def test_blocks_that_are_not_there() -> None:
    path = Path("a.gguf")
    check_blocks(path, ["blk.0.a", "blk.3.a", "token_embd.weight", "a.blk.7"], 4)
    with pytest.raises(ModelFormatError, match=r"^a\.gguf: has tensors of blk\.4, but .*block_count=4: blk\.4\.a; "):
        check_blocks(path, ["blk.3.a", "blk.4.a"], 4)
    with pytest.raises(ModelFormatError, match=r"^a\.gguf: tensor blk\.-1\.a is of no block: "):
        check_blocks(path, ["blk.-1.a"], 4)


def test_names_are_shown_on_a_line() -> None:
    assert shown("blk.é.x") == "blk.é.x"
    assert shown("a\nb\x1b[2J") == r"a\nb\x1b[2J"
    assert len(shown("9" * 5000)) < 110
