"""Batched generation with a key/value cache; the noise of a sampled token depends on its position only."""

from __future__ import annotations

import torch
from torch import Tensor

from .model import Step, attend, rms, rotary


def gumbel(rows: int, vocab: int, position: int, seed: int) -> Tensor:
    """Noise [rows, vocab] for the tokens at `position`: the same for whoever asks, trunk or head."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + position)
    return -torch.empty(rows, vocab).exponential_(generator=generator).log()


def choose(logits: Tensor, position: int, temperature: float, seed: int) -> Tensor:
    """Tokens [rows] for `position` from logits [rows, vocab]."""
    if temperature == 0:
        return logits.argmax(-1)
    noise = gumbel(*logits.shape, position, seed).to(logits.device)
    return (logits.float() / temperature + noise).argmax(-1)


class Cache:
    """Keys and values of every trunk layer: [rows, room, G, D] each."""

    def __init__(self, model: Step, rows: int, room: int) -> None:
        s = model.shape
        sizes = (rows, room, s.heads_kv, s.head_dim)
        device = model.output.weight.device
        self.keys = [torch.zeros(sizes, dtype=model.dtype, device=device) for _ in range(s.trunk_layers)]
        self.values = [torch.zeros(sizes, dtype=model.dtype, device=device) for _ in range(s.trunk_layers)]


def forward(model: Step, tokens: Tensor, start: int, cache: Cache) -> Tensor:
    """Trunk over tokens [rows, n] at positions start …: hidden [rows, n, E]."""
    s, n = model.shape, tokens.shape[1]
    end = start + n
    x = model.token_embd.weight[tokens]
    position = torch.arange(start, end, device=tokens.device)
    distance = position[:, None] - torch.arange(end, device=tokens.device)
    causal = distance >= 0
    for i, block in enumerate(model.blk[: s.trunk_layers]):
        cos, sin = (a.to(x.device) for a in rotary(s, i, position.cpu(), model.rope_factors.cpu()))
        q, k, v, gate = block.heads_of(rms(x, block.attn_norm.weight), cos, sin, model.dtype)
        cache.keys[i][:, start:end], cache.values[i][:, start:end] = k, v
        low = max(0, start - s.window + 1) if block.sliding else 0
        mask = (causal & (distance < s.window) if block.sliding else causal)[None, None, :, low:]
        out = attend(q, cache.keys[i][:, low:end], cache.values[i][:, low:end], mask)
        out = (out.float() * gate).flatten(2).to(model.dtype)
        x = x + (out @ block.attn_output.weight.to(model.dtype).T).float()
        x = block.ffn(x, model.dtype)
    return x


@torch.no_grad()
def continue_text(model: Step, prompts: Tensor, count: int, temperature: float, seed: int = 0) -> Tensor:
    """prompts [rows, P] -> [rows, P + count]."""
    length = prompts.shape[1]
    cache = Cache(model, len(prompts), length + count)
    tokens = prompts
    new, start = prompts, 0
    for position in range(length, length + count):
        logits = model.logits(forward(model, new, start, cache)[:, -1])
        new = choose(logits, position, temperature, seed)[:, None]
        tokens = torch.cat((tokens, new), 1)
        start = position
    return tokens
