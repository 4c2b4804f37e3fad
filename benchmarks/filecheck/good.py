"""Good files: the demo model in every mix of types, and random models whose norms are as training leaves them.

Norm weights are drawn zero-centred, w with a gain of 1 + w, in kinds that trained models have: near one, near zero,
growing with the layers, all above or all below one, with outliers.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.filecheck.altered import Altered
from benchmarks.peers.models import Shape, metadata, tensors
from stepahead.demo import demo_path
from stepahead.filecheck.attention_checks import llama3_factors
from stepahead.filecheck.layout import Layout
from stepahead.filecheck.repair import replace_by
from stepahead.gguf import GGUFFile, QuantType, TensorData, write_gguf
from stepahead.gguf.block_name import block_number
from stepahead.gguf.block_quants import Floats
from stepahead.quantize.mix import MIXES, find_mix
from stepahead.quantize.plan import Request, make_plan
from stepahead.quantize.quantization import quantize_file
from stepahead.splice.block_metadata import head_pairs, trunk_pairs

NEVER_CENTRED = "never centred"
Stored = Callable[[str, int], Floats]
"""A norm as a file has it, to which 1 was added so many times; 1 is right."""
ORIGINS = ("BF16", "F32", NEVER_CENTRED)
"""What the weights were trained or published in: of BF16 ones a file's digits tell more."""


@dataclass(frozen=True, slots=True, eq=False)
class Good:
    """file: all of a model, or a part of it: "full", "trunk", "heads" (a companion) or "one head".

    rounding: of a converter, relative: a repair may come out nearer to the checkpoint than the good file is.
    """

    name: str
    part: str
    origin: str
    file: GGUFFile
    stored: Stored
    rounding: float = 0.0

    @property
    def layout(self) -> Layout:
        return Layout.of(self.file)

    @property
    def norms(self) -> list[str]:
        return [name for name in self.file.tensors if name.endswith("norm.weight")]


def parts(good: Good) -> Iterator[Good]:
    """The file, its trunk, its heads apart, and it with the first head alone."""
    layout, pairs = good.layout, good.file.typed_metadata()
    yield good
    heads = tuple(f"blk.{block}." for block in layout.heads)
    trunk = tuple(f"blk.{block}." for block in layout.trunk)
    cut = trunk_pairs(pairs, layout.num_trunk)
    yield _part(good, "trunk", {key: cut.get(key) for key in pairs}, heads)
    yield _part(good, "heads", {}, trunk)
    yield _part(good, "one head", dict(head_pairs(pairs, layout.num_trunk, 1)), heads[1:])


def _part(good: Good, part: str, pairs: dict, without: tuple[str, ...]) -> Good:
    return replace(good, part=part, file=Altered(good.file, pairs=pairs, without=without))


# --- the demo model ---
def demo_in_every_mix(folder: Path, names: tuple[str, ...] = tuple(MIXES)) -> Iterator[Good]:
    """It was trained in F32."""
    with GGUFFile.open(demo_path()) as demo:
        for name in names:
            plan = make_plan(demo, Request(find_mix(name), allow_requantize=True))
            path = folder / f"demo-{name}.gguf"
            quantize_file(plan, path)
            with GGUFFile.open(path) as file:
                yield Good(f"demo {name}", "full", "F32", file, _of_file(file))
            path.unlink()


def _of_file(file: GGUFFile) -> Stored:
    return lambda name, times: file.array(name) + np.float32(times - 1)


# --- random models ---
def random_models(count: int, seed: int) -> Iterator[Good]:
    """Of other sizes each."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            rng = np.random.default_rng([seed, number])
            shape = _shape(rng, number)
            path = Path(folder) / f"{number}.gguf"
            write_gguf(path, metadata(shape), _tensors(shape, rng))
            with GGUFFile.open(path) as file:
                for convention in STORED:
                    yield _with_norms(file, convention, [seed, number])
            path.unlink()


def _shape(rng: np.random.Generator, number: int) -> Shape:
    def one_of(*values: int) -> int:
        return int(rng.choice(values))

    full, trunk = one_of(2, 4, 6), one_of(2, 3, 5, 9)
    experts = one_of(2, 8)
    return Shape(
        name=f"random {number}", hidden=one_of(96, 128, 256, 512), head_dim=one_of(32, 64, 128), num_trunk=trunk,
        heads_full=full, heads_sliding=full + one_of(0, 2), num_kv_heads=one_of(1, 2), window=one_of(8, 128),
        context=2048, width=one_of(128, 384), num_experts=experts, top_k=one_of(1, 2), expert_width=64, vocab=384,
        num_mtp=one_of(3, 3, 2, 4), dense_lead=one_of(0, 1, trunk), full_period=one_of(1, 2, 4, 4),
        type=QuantType.F32, output_type=QuantType.F32, seed=int(rng.integers(1 << 40)),
    )  # fmt: skip


def _tensors(shape: Shape, rng: np.random.Generator) -> dict[str, TensorData]:
    """Matrices of another size of numbers than is usual, norms of queries and keys or none, rotary factors or none."""
    found, scale = dict(tensors(shape)), np.float32(10.0 ** rng.uniform(-2, 1))
    for name, data in found.items():
        if not name.endswith(("norm.weight", ".bias")):
            values = np.asarray(data.data()).view(np.float32).reshape(data.shape) * scale  # type: ignore[operator]
            found[name] = TensorData.from_array(values)
    if rng.random() < 0.3:
        found = {name: data for name, data in found.items() if not name.endswith(("_q_norm.weight", "_k_norm.weight"))}
    if rng.random() < 0.7:
        factors = np.ones(shape.head_dim // 2, np.float32)
        factors[: shape.head_dim // 4] = llama3_factors(shape.head_dim // 2, 5e6)
        found["rope_freqs.weight"] = TensorData.from_array(factors)
    return found


Draw = Callable[[np.random.Generator, float, int], np.ndarray]
"""Weights around zero, from how far up in the trunk they are (0 to 1) and how many there are to be."""
KINDS: dict[str, Draw] = {
    "near one": lambda rng, depth, size: rng.normal(0.0, 0.02, size),
    "spread": lambda rng, depth, size: rng.normal(0.0, 0.2, size),
    "near zero": lambda rng, depth, size: rng.normal(-0.85, 0.04, size),
    "growing": lambda rng, depth, size: rng.normal(1.6 * depth - 0.8, 0.1, size),
    "above one": lambda rng, depth, size: abs(rng.normal(0.1, 0.2, size)),
    "below one": lambda rng, depth, size: np.maximum(-abs(rng.normal(0.3, 0.15, size)), -0.95),
    "large": lambda rng, depth, size: rng.normal(1.5, 0.4, size),
    "outliers": lambda rng, depth, size: np.where(rng.random(size) < 0.02, rng.uniform(4, 20, size),
                                                  rng.normal(-0.2, 0.15, size)),
    "long tails": lambda rng, depth, size: np.maximum(0.15 * rng.standard_t(3, size) - 0.1, -0.99),
    "exactly one": lambda rng, depth, size: np.zeros(size),
}  # fmt: skip
MOSTLY = {"near one": 0.9, "exactly one": 0.1}  # of norms of queries and keys: others follow the kind of the model


def _bf16(values: np.ndarray) -> Floats:
    """To the nearest, as converters round."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _add(values: Floats, times: int) -> Floats:
    for _ in range(times):
        values = values + np.float32(1)
    return values


def _narrow_sum(centred: np.ndarray, times: int) -> Floats:
    """1 added in BF16, by a converter that does not care."""
    values = _bf16(centred)
    for _ in range(times):
        values = _bf16(values + np.float32(1))
    return values


STORED: dict[str, tuple[str, Callable[[np.ndarray, int], Floats]]] = {
    "BF16": ("BF16", lambda centred, times: _add(_bf16(centred), times)),
    "F32": ("F32", lambda centred, times: _add(centred.astype(np.float32), times)),
    "BF16 sums": ("F32", _narrow_sum),
    "BF16 gains": (NEVER_CENTRED, lambda centred, times: _bf16(1 + centred) + np.float32(times - 1)),
}
"""How a converter's norms come about, and whether the digits tell it."""


def _with_norms(file: GGUFFile, convention: str, seed: list[int]) -> Good:
    layout = Layout.of(file)
    rng = np.random.default_rng(seed)
    main, heads = (str(rng.choice(list(KINDS)[:-1])) for _ in range(2))
    origin, write = STORED[convention]
    centred: dict[str, np.ndarray] = {}
    for name, info in file.tensors.items():
        if name.endswith("norm.weight"):
            block = block_number(name)
            depth = 1.0 if block < 0 else min(1.0, block / layout.num_trunk)
            kind = heads if block in layout.heads else main
            if name.endswith(("_q_norm.weight", "_k_norm.weight")) and rng.random() < 0.5:
                kind = str(rng.choice(list(MOSTLY), p=list(MOSTLY.values())))
            centred[name] = KINDS[kind](rng, depth, info.shape[0])

    def stored(name: str, times: int) -> Floats:
        return write(centred[name], times)

    edits = {name: replace_by(stored(name, 1)) for name in centred}
    label = f"{file.metadata['general.name']}, {convention}, {main} / {heads}"
    rounding = 2.0**-7 if convention == "BF16 sums" else 0.0
    return Good(label, "full", origin, Altered(file, edits), stored, rounding)
