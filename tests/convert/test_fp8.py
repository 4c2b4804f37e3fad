"""FP8 weights: what the codes mean, and every shape that their scales come in."""

from collections.abc import Callable

import numpy as np
import pytest

from convert.conftest import SHAPE
from stepahead.convert import convert
from stepahead.convert.numbers import FP8_VALUES
from stepahead.errors import ModelFormatError
from stepahead.gguf import GGUFFile
from support.hub_checkpoint import Tensors, hub_config, hub_name, hub_tensors

LINEAR = "model.layers.0.self_attn.q_proj.weight"  # (128, 128)
WIDE = "model.layers.0.mlp.down_proj.weight"  # (128, 256)
STACK = "model.layers.2.moe.gate_proj.weight"  # (8, 64, 128)
NAMES = {LINEAR: "blk.0.attn_q.weight", WIDE: "blk.0.ffn_down.weight", STACK: "blk.2.ffn_gate_exps.weight"}
RNG = np.random.default_rng(3)


def test_the_codes_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="needs torch: make test EXTRAS=oracle")
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    assert np.array_equal(FP8_VALUES, codes.float().numpy(), equal_nan=True)
    assert (FP8_VALUES[0x7E], FP8_VALUES[1], FP8_VALUES[0xB8]) == (448, 2**-9, -1)


def codes_of(tensors: Tensors, name: str) -> np.ndarray:
    """Random finite codes in the shape of a tensor."""
    codes = RNG.integers(0, 255, tensors[name][1].shape, dtype=np.uint8)
    return np.where(codes & 0x7F == 0x7F, 0, codes).astype(np.uint8)


def spread(scale: np.ndarray, shape: tuple[int, ...], block: tuple[int, int]) -> np.ndarray:
    """A scale for every number, by the definition: element (…, i, j) has that of block (i // height, j // width)."""
    rows, columns = np.arange(shape[-2]) // block[0], np.arange(shape[-1]) // block[1]
    return scale[..., rows[:, None], columns[None, :]]


def scales(*shape: int) -> np.ndarray:
    return RNG.uniform(0.001, 0.01, shape).astype(np.float32)


BLOCK = (48, 80)  # neither divides what it cuts
# name of the weight, name of the scale, its shape, what it is for every number
CASES: dict[str, tuple[str, str, tuple[int, ...], Callable[[np.ndarray, tuple[int, ...]], np.ndarray]]] = {
    "blocks": (LINEAR, "_scale_inv", (3, 2), lambda s, shape: spread(s, shape, BLOCK)),
    "blocks of a wide matrix": (WIDE, "_scale_inv", (3, 4), lambda s, shape: spread(s, shape, BLOCK)),
    "blocks of experts": (STACK, "_scale_inv", (8, 2, 2), lambda s, shape: spread(s, shape, BLOCK)),
    "blocks by the other name": (LINEAR, "_scale", (3, 2), lambda s, shape: spread(s, shape, BLOCK)),
    "one": (LINEAR, "_scale", (), lambda s, shape: s),
    "one in a list": (WIDE, "_scale", (1,), lambda s, shape: s),
    "one for each row": (LINEAR, "_scale", (128, 1), lambda s, shape: s),
    "one for each expert": (STACK, "_scale", (8,), lambda s, shape: s[:, None, None]),
    "one for each expert, with ones": (STACK, "_scale", (8, 1, 1), lambda s, shape: s),
    "one for each row of each expert": (STACK, "_scale", (8, 64, 1), lambda s, shape: s),
}


@pytest.mark.parametrize("pieces", [1 << 20, 700])
@pytest.mark.parametrize("case", CASES)
def test_scales(hub, bf16, tmp_path, monkeypatch, case: str, pieces: int) -> None:
    monkeypatch.setattr("stepahead.convert.stream.PIECE_ELEMENTS", pieces)
    name, suffix, scale_shape, spread_over = CASES[case]
    codes, scale = codes_of(bf16, name), scales(*scale_shape)
    tensors = {**bf16, name: ("F8_E4M3", codes), f"{name}{suffix}": ("F32", scale)}
    config = {**hub_config(SHAPE, nested=False), "quantization_config": {"weight_block_size": list(BLOCK)}}
    convert(hub(tensors, config), tmp_path / "out.gguf", type="F32")
    expected = FP8_VALUES[codes] * spread_over(scale, codes.shape)
    with GGUFFile.open(tmp_path / "out.gguf") as file:
        assert np.array_equal(file.array(NAMES[name]), expected)


def test_experts_one_by_one_with_blocks_of_128(hub, bf16, tmp_path) -> None:
    codes, scale = codes_of(bf16, STACK), scales(8, 1, 1)
    tensors = {name: value for name, value in bf16.items() if name != STACK}
    for expert in range(8):
        name = STACK.replace("moe.", f"moe.experts.{expert}.")
        tensors[name] = ("F8_E4M3", codes[expert])
        tensors[f"{name}_scale_inv"] = ("F32", scale[expert])
    convert(hub(tensors), tmp_path / "out.gguf", type="F32")
    with GGUFFile.open(tmp_path / "out.gguf") as file:
        assert np.array_equal(file.array(NAMES[STACK]), FP8_VALUES[codes] * scale)


def test_all_forms_of_a_release_at_once(hub, bf16, tmp_path) -> None:
    """FP8 experts one by one under the nested prefix, a nested config with lists of the trunk alone, heads in BF16."""
    plain = convert(hub(), tmp_path / "plain.gguf", type="F32").files[0]
    stacks = [name for name in bf16 if ".moe." in name and bf16[name][1].ndim == 3]
    codes = {name: codes_of(bf16, name) for name in stacks}
    grids = {name: scales(8, *(-(-size // 32) for size in bf16[name][1].shape[1:])) for name in stacks}
    tensors: Tensors = {}
    for name, value in bf16.items():
        long = name.replace("model.", "model.language_model.", 1)
        if name not in stacks:
            tensors[long] = value
            continue
        for expert in reversed(range(8)):
            of_expert = long.replace("moe.", f"moe.experts.{expert}.")
            tensors[of_expert] = ("F8_E4M3", codes[name][expert])
            tensors[f"{of_expert}_scale_inv"] = ("F32", grids[name][expert])
    config = hub_config(SHAPE, has_head_entries=False)
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    report = convert(hub(tensors, config, num_files=6), tmp_path / "out.gguf", type="F32")
    assert report.num_heads == 3
    with GGUFFile.open(report.files[0]) as found, GGUFFile.open(plain) as expected:
        assert found.metadata["step35.attention.sliding_window_pattern"].tolist()[4:] == [True] * 3
        assert found.metadata.keys() == expected.metadata.keys()
        for key, value in expected.metadata.items():
            assert np.array_equal(found.metadata[key], value), key
        for name in expected.tensors:
            exact, stack = expected.array(name), hub_name(name)
            if stack in codes:
                exact = FP8_VALUES[codes[stack]] * spread(grids[stack], codes[stack].shape, (32, 32))
            assert np.array_equal(found.array(name), exact), name


def test_a_whole_checkpoint_in_fp8_stays_close(hub, f32, tmp_path) -> None:
    tensors = hub_tensors(SHAPE, "BF16")
    for name, (_, values) in f32.items():
        if values.ndim > 1 and "embed" not in name and "moe.gate.weight" not in name:
            block = np.abs(values).max(axis=(-2, -1), keepdims=True) / 448
            grid = np.broadcast_to(block, (*values.shape[:-2], *(-(-size // 128) for size in values.shape[-2:])))
            order = np.argsort(FP8_VALUES[:127])
            known = FP8_VALUES[:127][order]
            nearest = np.searchsorted((known[1:] + known[:-1]) / 2, np.abs(values / block))
            codes = order[nearest] | np.where(values < 0, 0x80, 0)
            tensors[name] = ("F8_E4M3", codes.astype(np.uint8))
            tensors[f"{name}_scale_inv"] = ("F32", np.ascontiguousarray(grid, np.float32))
    convert(hub(f32), tmp_path / "f32.gguf", type="F32")
    convert(hub(tensors), tmp_path / "fp8.gguf", type="BF16")
    with GGUFFile.open(tmp_path / "f32.gguf") as exact, GGUFFile.open(tmp_path / "fp8.gguf") as found:
        for name in exact.tensors:
            values = exact.array(name)
            error = np.sqrt(np.square(found.array(name) - values).mean() / np.square(values).mean())
            assert error < 0.04, name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, r"q_proj\.weight is FP8 and has no scale"),
        ({f"{LINEAR}_scale_inv": (2, 2)}, r"q_proj\.weight_scale_inv of shape \[2, 2\] do not fit \[128, 128\]"),
        ({f"{LINEAR}_scale_inv": (128, 1)}, "do not fit"),
        ({f"{LINEAR}_scale": (64,)}, "do not fit"),
        ({f"{LINEAR}_scale": (128, 128)}, "do not fit"),
        ({f"{LINEAR}_scale": (), f"{LINEAR}_scale_inv": (1, 1)}, "two names of one"),
    ],
)
def test_scales_that_do_not_fit(hub, bf16, tmp_path, change: dict, message: str) -> None:
    tensors = {**bf16, LINEAR: ("F8_E4M3", codes_of(bf16, LINEAR))}
    tensors |= {name: ("F32", scales(*shape)) for name, shape in change.items()}
    with pytest.raises(ModelFormatError, match=message):
        convert(hub(tensors), tmp_path / "out.gguf")


def test_nan_is_found(hub, bf16, tmp_path) -> None:
    codes = codes_of(bf16, LINEAR)
    codes[5, 5] = 0xFF
    tensors = {**bf16, LINEAR: ("F8_E4M3", codes), f"{LINEAR}_scale_inv": ("F32", scales(1, 1))}
    with pytest.raises(ModelFormatError, match=r"q_proj\.weight, rows 0 to 127: .*Inf or NaN"):
        convert(hub(tensors), tmp_path / "out.gguf")
