"""What the tests of the kernels share. Arrays go in and come out as numpy; memory that is handed out holds NaN."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch

from stepahead.backends.cuda.device import Device
from stepahead.backends.cuda.launch import Launcher
from stepahead.backends.cuda.rows import HalfRows

DEVICE = Device.open().torch
LAUNCH = Launcher()
RNG_SEED = 7


def on_device(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array).copy()).to(DEVICE)


def on_host(tensor: torch.Tensor) -> np.ndarray:
    return tensor.cpu().numpy().copy()


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def assert_same_bits(actual: np.ndarray, expected: np.ndarray, message: str = "") -> None:
    """Bit for bit, NaN payloads apart."""
    assert actual.shape == expected.shape
    same = (actual.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(actual) & np.isnan(expected))
    assert same.all(), f"{message} differ at {np.argwhere(~same)[:5].tolist()} of {actual.shape}"


@contextlib.contextmanager
def poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN, and integers of all ones, while it lasts: an element that no kernel writes shows."""
    empty, empty_like = torch.empty, torch.empty_like

    def poison(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.nbytes:
            tensor.view(torch.uint8).fill_(255)
        return tensor

    torch.empty = lambda *shape, **options: poison(empty(*shape, **options))
    torch.empty_like = lambda like, **options: poison(empty_like(like, **options))
    try:
        yield
    finally:
        torch.empty, torch.empty_like = empty, empty_like


def check_half(half: HalfRows | None, values: np.ndarray) -> None:
    """It is `values` to eleven bits, in its range, with zeros behind, and then means of 16 to 22 bits."""
    assert half is not None
    stored, exponents = on_host(half.values).astype(np.float32), on_host(half.exponents)
    width, padded = values.shape[1], -(-values.shape[1] // 256) * 256
    assert stored.shape == (len(values), padded + padded // 8)
    halves, sums = stored[:, :padded], stored[:, padded:]
    means = halves.reshape(len(halves), -1, 16).mean(axis=2, dtype=np.float64)
    assert (
        np.abs(sums[:, ::2].astype(np.float64) + sums[:, 1::2] - means) <= 2.0**-22 * np.abs(means) + 2.0**-12
    ).all()
    assert not halves[:, width:].any()
    peaks = np.abs(halves).max(axis=1)
    assert ((peaks >= 2.0**14) & (peaks <= 2.0**15))[np.abs(values).max(axis=1) > 2.0**-112].all()
    assert (np.frexp(exponents)[0] == 0.5).all()
    restored = halves[:, :width] * exponents[:, None]
    bound = np.abs(values) * 2.0**-11 + np.abs(values).max(axis=1, keepdims=True) * 2.0**-38
    assert (np.abs(restored - values) <= bound).all()
