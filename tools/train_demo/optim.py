"""Muon for matrices, Adam for the rest, one class, resumable."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

from .config import Recipe

# Newton-Schulz coefficients that push singular values to 1 in five rounds (Jordan et al., "Muon", 2024).
ROUNDS, A, B, C = 5, 3.4445, -4.7750, 2.0315


def orthogonalise(update: Tensor) -> Tensor:
    """[N, m, n] -> nearest semi-orthogonal matrices, in bfloat16."""
    x = update.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT.contiguous() if tall else x
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).bfloat16()
    for _ in range(ROUNDS):
        s = torch.bmm(x, x.mT.contiguous())
        x = torch.baddbmm(x, torch.baddbmm(s, s, s, beta=B, alpha=C), x, beta=A)
    return x.mT if tall else x


def is_matrix(name: str, parameter: Tensor) -> bool:
    tables = ("token_embd", "output.weight", "shared_head_head", "ffn_gate_inp", "attn_gate")
    return parameter.ndim >= 2 and not any(t in name for t in tables)


class Optimizer:
    """Both rules over the named parameters of a model."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.recipe, self.step_count = recipe, 0
        self.matrices: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
        tables, vectors = [], []
        for name, p in model.named_parameters():
            if not p.requires_grad:
                continue
            if is_matrix(name, p):
                self.matrices[tuple(p.shape[-2:])].append(p)
            else:
                (tables if p.shape[0] > 1000 else vectors).append(p)
        self.momentum = {p: torch.zeros_like(p) for ps in self.matrices.values() for p in ps}
        self.adam = torch.optim.AdamW(
            [{"params": tables, "peak": recipe.lr_table}, {"params": vectors, "peak": recipe.lr_vector}],
            betas=(0.9, 0.97), weight_decay=0.0, fused=True,
        )  # fmt: skip

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """One update with every learning rate times `scale`; gradients are consumed."""
        for group in self.adam.param_groups:
            group["lr"] = group["peak"] * scale
        self.adam.step()
        for (rows, columns), parameters in self.matrices.items():
            updates = []
            for p in parameters:
                m = self.momentum[p].lerp_(p.grad, 0.05)
                updates.append(p.grad.lerp(m, 0.95).view(-1, rows, columns))
            rate = self.recipe.lr_matrix * scale
            stacked = orthogonalise(torch.cat(updates))
            for p, u in zip(parameters, stacked.split([len(x) for x in updates]), strict=True):
                p.mul_(1 - rate * self.recipe.weight_decay)
                p.add_(u.reshape(p.shape), alpha=-rate * max(1.0, rows / columns) ** 0.5)
        self.step_count += 1
        for p in [*self.momentum, *(p for g in self.adam.param_groups for p in g["params"])]:
            p.grad = None

    def state_dict(self) -> dict[str, object]:
        return {"momentum": list(self.momentum.values()), "adam": self.adam.state_dict(), "steps": self.step_count}

    def load_state_dict(self, state: dict) -> None:
        for mine, saved in zip(self.momentum.values(), state["momentum"], strict=True):
            mine.copy_(saved)
        peaks = [g["peak"] for g in self.adam.param_groups]
        self.adam.load_state_dict(state["adam"])
        for g, peak in zip(self.adam.param_groups, peaks, strict=True):
            g["peak"] = peak
        self.step_count = state["steps"]
