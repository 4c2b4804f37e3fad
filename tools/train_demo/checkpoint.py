"""Saving and loading: what a run needs to go on, and what others need of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

import gguf

from .config import Shape, as_dict
from .model import Step


def save(path: Path, state: dict[str, object]) -> None:
    """Write beside, then rename: a killed run keeps its last checkpoint."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def load(path: Path, device: str = "cpu") -> dict:
    return torch.load(path, map_location=device, weights_only=True)


def load_model(path: Path, averaged: bool = True, dtype: torch.dtype = torch.bfloat16) -> Step:
    """The model of a checkpoint, by default with the running average of its weights."""
    state = load(path)
    model = Step(Shape(**state["shape"]), dtype)
    model.load_state_dict(state["ema" if averaged else "model"])
    return model.eval()


def shape_entry(shape: Shape) -> dict[str, object]:
    return as_dict(shape)


def append_log(path: Path, entry: dict[str, object]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def load_gguf(path: Path, dtype: torch.dtype = torch.float32) -> Step:
    """The model in a GGUF file that `export` wrote, its matrices dequantised."""
    reader = gguf.GGUFReader(path)

    def key(name: str) -> object:
        return reader.fields[f"step35.{name}"].contents()

    shape = Shape(
        experts=key("expert_count"), dense_width=key("feed_forward_length"), window=key("attention.sliding_window")
    )
    model = Step(shape, dtype)
    values = {t.name: torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type))) for t in reader.tensors}
    model.rope_factors.copy_(values.pop("rope_freqs.weight"))
    model.load_state_dict(values)
    return model.eval()
