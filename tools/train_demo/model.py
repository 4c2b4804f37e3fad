"""Step-3.5 in PyTorch, written to be trained on a CPU: names of parameters are the names of GGUF tensors.

Letters in shapes: B sequences, T positions, E embedding, H query heads, G key/value heads, D head size,
X experts, F width of a feed-forward, V vocabulary.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from .config import Shape


class Weight(nn.Module):
    """A bare tensor with a GGUF name ending in `.weight`; std 0 gives zeros, std < 0 ones."""

    def __init__(self, *sizes: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(sizes) if std < 0 else torch.randn(sizes) * std)


class Bias(nn.Module):
    """The router bias [X]: moved by a rule, not by a gradient."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("bias", torch.zeros(size))
        self.register_buffer("load", torch.zeros(size), persistent=False)


def rms(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """RMSNorm over the last dimension, in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def linear(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """x [..., in] times weight [out, in], in the compute type."""
    return F.linear(x.to(dtype), weight.to(dtype))


def rotary(shape: Shape, layer: int, positions: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [T, n_rot / 2] of a layer; the frequency factors apply to full layers."""
    n = shape.rotated(layer)
    theta = shape.theta_sliding if shape.sliding(layer) else shape.theta_full
    frequency = theta ** (-torch.arange(0, n, 2, dtype=torch.float64) / n)
    if not shape.sliding(layer):
        frequency = frequency / factors[: n // 2].double()
    angle = positions.double()[:, None] * frequency
    return angle.cos().float(), angle.sin().float()


def rope_factors(shape: Shape) -> Tensor:
    """Divisors [D / 2] of the full layers' frequencies: the llama3 formula, 1 in the unused tail."""
    n = shape.head_dim // 2
    wave = 2 * math.pi * shape.theta_full ** (torch.arange(0, n, 2, dtype=torch.float64) / n)
    smooth = (shape.rope_original / wave - shape.rope_low) / (shape.rope_high - shape.rope_low)
    smooth = smooth.clamp(0, 1)
    return torch.cat((1 / ((1 - smooth) / shape.rope_factor + smooth), torch.ones(n - n // 2))).float()


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split rotation of the first n_rot dimensions. x [B, T, H, D], cos and sin [T, n_rot / 2] or [B, T, …]."""
    half = cos.shape[-1]
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((a * cos - b * sin, a * sin + b * cos, rest), -1)


def window_mask(chunk: int, chunks: int) -> Tensor:
    """True where a query of a chunk sees a key of [the two chunks before, its own]: [chunks, 1, chunk, 3 * chunk].

    A chunk is half a window long.
    """
    c = torch.arange(chunks)[:, None, None, None]
    i, j = torch.arange(chunk)[:, None], torch.arange(3 * chunk)[None]
    return (j > i) & (j <= i + 2 * chunk) & (j + c * chunk >= 2 * chunk)


def grouped_heads(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """q [N, T, H, D], k [N, S, G, D] -> [N * G, (H / G) * T, D], [N * G, S, D]: query heads of a group side by side."""
    n, t, h, d = q.shape
    g = k.shape[2]
    q = q.reshape(n, t, g, h // g, d).permute(0, 2, 3, 1, 4).reshape(n * g, (h // g) * t, d)
    return q, k.transpose(1, 2).reshape(n * g, -1, d)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention by two batched products. q [N, T, H, D], k, v [N, S, G, D], mask [N or 1, 1, T, S] -> [N, T, H, D]."""
    n, t, h, d = q.shape
    g, r = k.shape[2], h // k.shape[2]
    qg, kg = grouped_heads(q, k)
    vg = v.transpose(1, 2).reshape(n * g, -1, d)
    scores = torch.bmm(qg, kg.transpose(1, 2)).view(n, g * r, t, -1)
    scores = scores.float() * (1 / math.sqrt(d))
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1).to(q.dtype)
    out = torch.bmm(weights.view(n * g, r * t, -1), vg)
    return out.view(n, g, r, t, d).permute(0, 3, 1, 2, 4).reshape(n, t, h, d)


def attend_window(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, chunk: int) -> Tensor:
    """Sliding attention in chunks: each sees itself and the two before. T is a multiple of the chunk."""
    b, t, h, d = q.shape
    c = t // chunk

    def reach(x: Tensor) -> Tensor:
        x = F.pad(x.reshape(b, c, chunk, -1, d), (0, 0, 0, 0, 0, 0, 2, 0))
        return torch.cat((x[:, :-2], x[:, 1:-1], x[:, 2:]), 2).reshape(b * c, 3 * chunk, -1, d)

    mask = mask.expand(b, c, *mask.shape[-3:]).reshape(b * c, 1, chunk, 3 * chunk)
    return attend(q.reshape(b * c, chunk, h, d), reach(k), reach(v), mask).reshape(b, t, h, d)


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, dtype: torch.dtype) -> Tensor:
    return linear(F.silu(linear(x, gate, dtype)) * linear(x, up, dtype), down, dtype)


class Spread(torch.autograd.Function):
    """Each row k times, in the order of the experts: m [N, E] -> [N * k, E]; back[order] is 0, 1, 2, …"""

    @staticmethod
    def forward(ctx, m: Tensor, order: Tensor, back: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(back)
        ctx.k = k
        return m.index_select(0, order // k)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (back,) = ctx.saved_tensors
        return grad.index_select(0, back).view(-1, ctx.k, grad.shape[1]).sum(1), None, None, None


class Permute(torch.autograd.Function):
    """Rows in the order of `index`, whose inverse is known."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return grad.index_select(0, inverse), None, None


class Block(nn.Module):
    """One decoder layer; an MTP layer has the `nextn` tensors too."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        e, d, h, g = shape.embedding, shape.head_dim, shape.heads(layer), shape.heads_kv
        self.shape, self.layer, self.sliding, self.moe = shape, layer, shape.sliding(layer), shape.is_moe(layer)
        std = 0.6 / math.sqrt(e)
        self.attn_norm, self.ffn_norm = Weight(e, std=-1), Weight(e, std=-1)
        self.attn_q, self.attn_k = Weight(h * d, e, std=std), Weight(g * d, e, std=std)
        self.attn_v, self.attn_gate = Weight(g * d, e, std=std), Weight(h, e, std=std * 0.1)
        self.attn_output = Weight(e, h * d, std=0)
        self.attn_q_norm, self.attn_k_norm = Weight(d, std=-1), Weight(d, std=-1)
        if self.moe:
            x, f, s = shape.experts, shape.expert_width, shape.shared_width
            self.ffn_gate_inp, self.exp_probs_b = Weight(x, e, std=0.5 / math.sqrt(e)), Bias(x)
            self.ffn_gate_exps, self.ffn_up_exps = Weight(x, f, e, std=std), Weight(x, f, e, std=std)
            self.ffn_down_exps = Weight(x, e, f, std=0)
            self.ffn_gate_shexp, self.ffn_up_shexp = Weight(s, e, std=std), Weight(s, e, std=std)
            self.ffn_down_shexp = Weight(e, s, std=0)
        else:
            f = shape.dense_width
            self.ffn_gate, self.ffn_up = Weight(f, e, std=std), Weight(f, e, std=std)
            self.ffn_down = Weight(e, f, std=0)
        if layer >= shape.trunk_layers:
            self.nextn = nn.ModuleDict(
                {
                    "eh_proj": Weight(e, 2 * e, std=0.7 / math.sqrt(e)),
                    "enorm": Weight(e, std=-1),
                    "hnorm": Weight(e, std=-1),
                    "shared_head_norm": Weight(e, std=-1),
                    "shared_head_head": Weight(shape.vocab, e, std=0.01),
                }
            )

    def heads_of(self, x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Normed input x [B, T, E] -> q [B, T, H, D], k and v [B, T, G, D], gate [B, T, H, 1]."""
        b, t, _ = x.shape
        d = self.shape.head_dim
        q = linear(x, self.attn_q.weight, dtype).view(b, t, -1, d)
        k = linear(x, self.attn_k.weight, dtype).view(b, t, -1, d)
        v = linear(x, self.attn_v.weight, dtype).view(b, t, -1, d)
        gate = torch.sigmoid(linear(x, self.attn_gate.weight, dtype).float()).unsqueeze(-1)
        q = rope(rms(q, self.attn_q_norm.weight), cos, sin).to(dtype)
        k = rope(rms(k, self.attn_k_norm.weight), cos, sin).to(dtype)
        return q, k, v, gate

    def attention(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """Residual stream x [B, T, E] -> x plus gated attention."""
        q, k, v, gate = self.heads_of(rms(x, self.attn_norm.weight), cos, sin, dtype)
        chunked = mask.shape[-1] != x.shape[1]
        out = attend_window(q, k, v, mask, self.shape.window // 2) if chunked else attend(q, k, v, mask)
        out = (out.float() * gate).flatten(2)
        return x + linear(out, self.attn_output.weight, dtype).float()

    def route(self, m: Tensor) -> tuple[Tensor, Tensor]:
        """m [N, E] -> experts [N, K] and their weights [N, K], in float32."""
        p = torch.sigmoid(F.linear(m.float(), self.ffn_gate_inp.weight))
        picked = (p.detach() + self.exp_probs_b.bias).topk(self.shape.experts_used, -1).indices
        w = p.gather(-1, picked)
        return picked, w / w.sum(-1, keepdim=True).clamp_min(6.103515625e-5) * self.shape.expert_scale

    def dense_part(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """All of a MoE layer but the experts: x plus shared expert, the normed input, the routing."""
        m = rms(x, self.ffn_norm.weight)
        y = swiglu(m, self.ffn_gate_shexp.weight, self.ffn_up_shexp.weight, self.ffn_down_shexp.weight, dtype)
        picked, w = self.route(m.flatten(0, -2))
        return x + y.float(), m.to(dtype), picked, w

    def dense_ffn(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        m = rms(x, self.ffn_norm.weight)
        return x + swiglu(m, self.ffn_gate.weight, self.ffn_up.weight, self.ffn_down.weight, dtype).float()

    def experts(self, m: Tensor, picked: Tensor, w: Tensor, dtype: torch.dtype) -> Tensor:
        """Rows sorted by expert, one product an expert. m [N, E], picked and w [N, K] -> [N, E]."""
        k = picked.shape[1]
        order = picked.flatten().argsort(stable=True)
        counts = torch.bincount(picked.flatten(), minlength=self.shape.experts)
        if self.training:
            self.exp_probs_b.load += counts
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        rows = Spread.apply(m, order, back, k).split(counts.tolist())
        gates, ups = self.ffn_gate_exps.weight.to(dtype).unbind(0), self.ffn_up_exps.weight.to(dtype).unbind(0)
        downs = self.ffn_down_exps.weight.to(dtype).unbind(0)
        outs = [
            F.linear(F.silu(F.linear(r, g)) * F.linear(r, u), d)
            for r, g, u, d in zip(rows, gates, ups, downs, strict=True)
        ]
        out = Permute.apply(torch.cat(outs), back, order).view(-1, k, m.shape[1])
        return (out.float() * w.unsqueeze(-1)).sum(1)

    def ffn(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Residual stream x [B, T, E] -> x plus feed-forward."""
        if not self.moe:
            return self.dense_ffn(x, dtype)
        y, m, picked, w = self.dense_part(x, dtype)
        return y + self.experts(m.flatten(0, -2), picked, w, dtype).view_as(x)


class ScaleGradient(torch.autograd.Function):
    """Identity forward; the gradient is multiplied by a constant."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


class Step(nn.Module):
    """Trunk and MTP heads."""

    def __init__(self, shape: Shape, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.shape, self.dtype = shape, dtype
        self.head_weight = 1.0  # gradient of the heads into the embedding
        self.token_embd = Weight(shape.vocab, shape.embedding, std=1.0)
        self.output_norm = Weight(shape.embedding, std=-1)
        self.output = Weight(shape.vocab, shape.embedding, std=0.01)
        self.blk = nn.ModuleList(Block(shape, i) for i in range(shape.layers))
        self.register_buffer("rope_factors", rope_factors(shape), persistent=False)
        self._tables: dict[tuple[int, str], dict[bool, tuple[Tensor, Tensor, Tensor]]] = {}

    def tables(self, length: int) -> dict[bool, tuple[Tensor, Tensor, Tensor]]:
        """For full (False) and sliding (True) layers: cos, sin, mask at this length."""
        device = self.output.weight.device
        key = (length, str(device))
        if key not in self._tables:
            positions, window = torch.arange(length), self.shape.window
            causal = torch.ones(length, length, dtype=torch.bool).tril()
            banded = causal & ~causal.tril(-window)
            chunked = length % window == 0 and length > 2 * window
            sliding = window_mask(window // 2, 2 * length // window) if chunked else banded
            factors = self.rope_factors.cpu()
            self._tables[key] = {
                kind: tuple(
                    x.to(device)
                    for x in (*rotary(self.shape, int(kind), positions, factors), (sliding if kind else causal))
                )
                for kind in (False, True)
            }
        return self._tables[key]

    def trunk(self, tokens: Tensor) -> Tensor:
        """tokens [B, T] -> the hidden before the output norm [B, T, E]."""
        x = F.embedding(tokens, self.token_embd.weight)
        tables = self.tables(tokens.shape[1])
        for block in self.blk[: self.shape.trunk_layers]:
            x = block.attention(x, *tables[block.sliding], self.dtype)
            x = block.ffn(x, self.dtype)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """[…, E] -> [..., V]."""
        return linear(rms(hidden, self.output_norm.weight), self.output.weight, self.dtype)

    def head(self, k: int, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Head k over rows in order: hidden [B, T, E] of positions p - 1, tokens [B, T] of positions p -> [B, T, E]."""
        block = self.blk[self.shape.trunk_layers + k]
        n = block.nextn
        e = ScaleGradient.apply(F.embedding(tokens, self.token_embd.weight), self.head_weight)
        e = rms(e, n["enorm"].weight)
        x = torch.cat((e, rms(hidden, n["hnorm"].weight)), -1)
        x = linear(x, n["eh_proj"].weight, self.dtype).float()
        x = block.attention(x, *self.tables(tokens.shape[1])[True], self.dtype)
        return block.ffn(x, self.dtype)

    def head_logits(self, k: int, out: Tensor) -> Tensor:
        """Output of head k [..., E] -> [..., V]."""
        n = self.blk[self.shape.trunk_layers + k].nextn
        return linear(rms(out, n["shared_head_norm"].weight), n["shared_head_head"].weight, self.dtype)

    def chain(self, hidden: Tensor, tokens: Tensor) -> list[Tensor]:
        """The exact chain, teacher-forced. hidden [B, T, E] of the trunk; tokens [B, T + K].

        Element k is [B, T, E]; its row i stands at position p = i + k + 1 and predicts the token at p + 1.
        """
        outs, length = [], hidden.shape[1]
        for k in range(self.shape.mtp_layers):
            hidden = self.head(k, hidden, tokens[:, k + 1 : k + 1 + length])
            outs.append(hidden)
        return outs

    def compile_parts(self) -> None:
        """Fuse the element-wise work of every block (needs a C++ compiler on a CPU)."""
        torch._dynamo.config.cache_size_limit = 64
        for name in ("attention", "dense_part", "dense_ffn"):
            setattr(Block, name, torch.compile(getattr(Block, name), dynamic=False))
