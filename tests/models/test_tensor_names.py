"""A tensor that nobody knows is refused by name: in a trunk, in heads, in a companion, by whatever opens the file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stepahead import LLM
from stepahead.cli import main
from stepahead.errors import ModelFormatError, StepaheadError, UnsupportedModelError
from stepahead.gguf import GGUFFile, TensorData
from stepahead.quantize.mix import find_mix
from stepahead.quantize.plan import Request, make_plan
from stepahead.splice import join, split
from support.spliced import SMALL, write

HEAD = SMALL.num_trunk
ODD = TensorData.from_array(np.zeros((4, 32), np.float32))
IMPOSSIBLE = {
    "blk.99999999999999999999999.attn_q.weight": "is of no block",
    f"blk.{'9' * 5000}.attn_q.weight": "is of no block",
    "blk.-1.attn_q.weight": "is of no block",
    "blk.é.attn_q.weight": "is of no block",
    "blk.٣.attn_q.weight": "is of no block",
    "blk.\x1b[2J\n.attn_q.weight": "is of no block",
    "blk.4095.attn_q.weight": "has tensors of blk.4095, but metadata says block_count=6",
    "blk.6.attn_q.weight": "has tensors of blk.6, but metadata says block_count=6",
}
UNKNOWN = {
    "in the trunk": "blk.1.attn_sinks.weight",
    "in a head": f"blk.{HEAD}.attn_sinks.weight",
    "in the last head": f"blk.{HEAD + 2}.nextn.lm_head.weight",
    "scales of NVFP4": f"blk.{HEAD}.ffn_up.weight.scale",
    "in no block": "dense_2.weight",
    "a block in capitals": "BLK.0.attn_q.weight",
}


def load(path: Path) -> None:
    LLM(path, device="reference", context_length=64)


def load_without_heads(path: Path) -> None:
    LLM(path, mtp="off", device="reference", context_length=64)


def plan(path: Path) -> None:
    with GGUFFile.open(path) as file:
        make_plan(file, Request(find_mix("Q8_0")))


def join_heads(path: Path) -> None:
    heads = write(path.with_name("heads.gguf"), part="heads")
    join(path, heads, path.with_name("out.gguf"))


def join_to_trunk(path: Path) -> None:
    join(write(path.with_name("trunk.gguf"), part="trunk"), path, path.with_name("out.gguf"))


def take_apart(path: Path) -> None:
    split(path, path.with_name("a.gguf"), path.with_name("b.gguf"))


OPENERS: dict[str, Callable[[Path], None]] = {
    "load": load,
    "load without heads": load_without_heads,
    "quantize": plan,
    "join heads to it": join_heads,
    "join it to a trunk": join_to_trunk,
    "split": take_apart,
}


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("name", IMPOSSIBLE, ids=lambda name: ascii(name[:30]))
def test_names_of_no_block(tmp_path: Path, name: str, opener: str) -> None:
    path = write(tmp_path / "odd.gguf", tensors={name: ODD})
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelFormatError, match=IMPOSSIBLE[name]) as caught:
        OPENERS[opener](path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400 + len(str(path))
    assert not {"out.gguf", "a.gguf", "b.gguf"} & {found.name for found in tmp_path.iterdir()}, before


@pytest.mark.parametrize("name", IMPOSSIBLE, ids=lambda name: ascii(name[:30]))
def test_inspect_names_it(tmp_path: Path, name: str, capsys) -> None:
    path = write(tmp_path / "odd.gguf", tensors={name: ODD})
    assert main(["inspect", str(path)]) == 1
    told = capsys.readouterr().err
    assert IMPOSSIBLE[name] in told
    assert told.count("\n") == 1
    assert "\x1b[2J" not in told


@pytest.mark.parametrize("name", UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_tensors(tmp_path: Path, name: str) -> None:
    words = rf"1 tensors have no place in this architecture: {name}"
    full = write(tmp_path / "full.gguf", tensors={name: ODD})
    with pytest.raises(UnsupportedModelError, match=rf"full\.gguf: {words}"):
        load(full)
    trunk, heads = write(tmp_path / "trunk.gguf", part="trunk"), write(tmp_path / "h.gguf", part="heads")
    load_pair(trunk, heads)
    if name.startswith("blk.1."):
        return
    odd = write(tmp_path / "heads.gguf", part="heads", tensors={name: ODD})
    with pytest.raises(UnsupportedModelError, match=rf"heads\.gguf: {words}"):
        load_pair(trunk, odd)


def load_pair(trunk: Path, heads: Path) -> None:
    LLM(trunk, mtp=heads, device="reference", context_length=64)


def test_heads_that_are_not_wanted_may_be_strange(tmp_path: Path) -> None:
    """Who leaves them out, or has better ones, needs not ask what they are."""
    full = write(tmp_path / "full.gguf", tensors={f"blk.{HEAD}.attn_sinks.weight": ODD})
    load_without_heads(full)
    load_pair(full, write(tmp_path / "heads.gguf", part="heads"))


def test_any_name_is_an_error_of_ours(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    parts = ["blk", ".", "0", "3", "9" * 20, "-", "é", "\0", "\n", "attn_q", "weight", " ", "nextn", "٣", "\U0001f600"]
    for number in range(40):
        name = "blk." + "".join(parts[i] for i in rng.integers(0, len(parts), rng.integers(1, 9)))
        path = write(tmp_path / f"{number}.gguf", tensors={name: ODD})
        with pytest.raises(StepaheadError) as caught:
            load(path)
        assert "\n" not in str(caught.value)
