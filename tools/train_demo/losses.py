"""What is learned: the trunk from the data, the heads from the trunk and the data."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from .config import Recipe
from .model import ScaleGradient, Step


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float().flatten(0, -2), targets.flatten())


def follow(logits: Tensor, teacher: Tensor, targets: Tensor, data_share: float) -> Tensor:
    """Loss of a head: cross-entropy to the trunk's choice and the data. logits, teacher [B, T, V], targets [B, T]."""
    log_q = logits.float().log_softmax(-1)
    soft = -(teacher.float().softmax(-1) * log_q).sum(-1).mean()
    hard = -log_q.gather(-1, targets[..., None]).mean()
    return (1 - data_share) * soft + data_share * hard


def agreement(logits: Tensor, teacher: Tensor) -> float:
    """Share of rows whose best token is the trunk's."""
    return (logits.argmax(-1) == teacher.argmax(-1)).float().mean().item()


def compute(model: Step, tokens: Tensor, recipe: Recipe, report: bool = True) -> tuple[Tensor, dict[str, float]]:
    """tokens [B, T + K]. The heads' gradient into the trunk is scaled by `head_weight`."""
    heads = model.shape.mtp_layers
    length = tokens.shape[1] - heads
    hidden = model.trunk(tokens[:, :length])
    teacher = model.logits(hidden)
    total = cross_entropy(teacher, tokens[:, 1 : length + 1])
    parts = {"trunk": total.item()} if report else {}
    hidden = ScaleGradient.apply(hidden, recipe.head_weight)
    for k, out in enumerate(model.chain(hidden, tokens)):
        usable = length - k - 1  # rows whose position the trunk has computed too
        logits, above = model.head_logits(k, out[:, :usable]), teacher[:, k + 1 :].detach()
        head_loss = follow(logits, above, tokens[:, k + 2 : k + 2 + usable], recipe.data_share)
        total = total + head_loss
        if report:
            parts[f"head{k}"], parts[f"agree{k}"] = head_loss.item(), agreement(logits, above)
    return total, parts
