"""Model files with one thing wrong, as converters have written them: made from a good file, its other bytes kept."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from stepahead.gguf import GGUFFile, TensorData, TypedValue, quantize, write_gguf

Change = Callable[[np.ndarray, GGUFFile, str], np.ndarray]
"""New bytes (rows, row_bytes) of a tensor from the old ones."""


def rewrite(
    good: Path,
    out: Path,
    tensors: Mapping[str, Change] | None = None,
    metadata: Mapping[str, object] | None = None,
    without: tuple[str, ...] = (),
) -> Path:
    """metadata: None takes a key out, other values keep the type that the key had; without: beginnings of names of
    tensors that are left out."""
    tensors, metadata = tensors or {}, metadata or {}
    with GGUFFile.open(good) as file:
        pairs = file.typed_metadata()
        for key, value in metadata.items():
            if value is None:
                pairs.pop(key)
            else:
                pairs[key] = value if isinstance(value, TypedValue) else TypedValue(pairs[key].type, value)
        data = {}
        for name, info in file.tensors.items():
            if not name.startswith(without) or not without:
                changed = tensors[name](file.data(name), file, name) if name in tensors else file.data(name)
                data[name] = TensorData(info.type, info.shape, np.ascontiguousarray(changed))
        write_gguf(out, pairs, data)
    return out


def plus(delta: float) -> Change:
    def change(data: np.ndarray, file: GGUFFile, name: str) -> np.ndarray:
        return quantize(file.array(name) + np.float32(delta), file.tensors[name].type)

    return change


def zeros(data: np.ndarray, file: GGUFFile, name: str) -> np.ndarray:
    return np.zeros_like(data)


def noise(data: np.ndarray, file: GGUFFile, name: str) -> np.ndarray:
    """Numbers as before training."""
    info = file.tensors[name]
    values = np.random.default_rng(len(name)).standard_normal(info.shape) * 0.02
    return quantize(values.astype(np.float32), info.type)


def ones(data: np.ndarray, file: GGUFFile, name: str) -> np.ndarray:
    return quantize(np.ones(file.tensors[name].shape, np.float32), file.tensors[name].type)


def swapped(data: np.ndarray, file: GGUFFile, name: str) -> np.ndarray:
    """Hidden half first. Whole blocks, so that the bytes can be moved."""
    middle = data.shape[-1] // 2
    return np.hstack([data[:, middle:], data[:, :middle]])


def interleaved(data: np.ndarray, file: GGUFFile, name: str) -> np.ndarray:
    """Rows j and j + half of each head beside each other, as other models have them."""
    dim = file.get_int("step35.attention.key_length")
    order = np.arange(dim).reshape(2, -1).T.ravel()  # 0, half, 1, half + 1, …
    if data.ndim == 1:
        return quantize(file.array(name)[order], file.tensors[name].type)
    heads = len(data) // dim
    return data[(np.arange(heads)[:, None] * dim + order).ravel()]


def bf16(values: np.ndarray) -> np.ndarray:
    """Rounded towards zero to what BF16 holds."""
    return (values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def from_checkpoint(times: int, seed: int = 1) -> Change:
    """A norm as converted from a BF16 checkpoint of zero-centred weights, 1 added so many times."""

    def change(data: np.ndarray, file: GGUFFile, name: str) -> np.ndarray:
        rng = np.random.default_rng([seed, *name.encode()])
        centred = bf16(rng.normal(0.1, 0.2, file.tensors[name].shape))
        return quantize(centred + np.float32(times), file.tensors[name].type)

    return change


def norms_of(path: Path, blocks: range | None = None, parts: tuple[str, ...] = ("",)) -> list[str]:
    """Names of norm weights; of all the file without blocks."""
    with GGUFFile.open(path) as file:
        names = [name for name in file.tensors if name.endswith("norm.weight")]
    if blocks is not None:
        names = [name for name in names if name.startswith(tuple(f"blk.{block}." for block in blocks))]
    return [name for name in names if any(part in name for part in parts)]
