"""Train trunk and heads together: python -m tools.train_demo.train --out FOLDER --minutes 75

Stops at --minutes of training or --tokens, whichever comes first; run the same command again to go on.
"""

from __future__ import annotations

import argparse
import copy
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from . import checkpoint, data, losses
from .config import Recipe, Shape
from .model import Block, Step
from .optim import Optimizer


def learning_scale(progress: float, step: int, recipe: Recipe) -> float:
    """The trapezoid: progress runs from 0 to 1."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    left = min(1.0, max(0.0, (1 - progress) / recipe.decay))
    early = 0.5 if step < recipe.early_steps else 1.0
    return warm * early * max(recipe.floor, left)


@torch.no_grad()
def held_out_loss(model: Step, stream: np.ndarray, length: int, rows: int = 32) -> float:
    """Nats per token over `rows` evenly spread windows."""
    starts = np.linspace(0, len(stream) - length - 2, rows).astype(int)
    tokens = torch.from_numpy(np.stack([stream[s : s + length + 1].astype(np.int64) for s in starts]))
    tokens = tokens.to(model.output.weight.device)
    total = sum(
        F.cross_entropy(model.logits(model.trunk(part[:, :-1])).float().flatten(0, 1), part[:, 1:].flatten()).item()
        for part in tokens.split(8)
    )
    return total / len(tokens.split(8))


def move_router_bias(model: Step, rate: float) -> float:
    """Raise the bias of experts below the mean load, lower the others; returns the worst load over the mean."""
    worst = 1.0
    for block in model.blk:
        if isinstance(block, Block) and block.moe:
            b = block.exp_probs_b
            mean = b.load.mean()
            worst = max(worst, (b.load.max() / mean).item())
            b.bias += rate * torch.sign(mean - b.load)
            b.bias -= b.bias.mean()
            b.load.zero_()
    return worst


class Run:
    """One training run and everything that is saved of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.recipe, self.shape = args, Recipe(batch=args.batch, length=args.length), Shape()
        torch.manual_seed(self.recipe.seed)
        self.model = Step(self.shape).to(args.device)
        self.model.head_weight = self.recipe.head_weight
        self.ema = copy.deepcopy(self.model).eval()
        self.optimizer = Optimizer(self.model, self.recipe)
        data.prepare(args.out / "data", self.shape.vocab)
        self.held_out = np.load(args.out / "data" / "heldout.npy")
        self.windows = data.Windows(np.load(args.out / "data" / "train.npy"), args.length, self.recipe.seed)
        self.tokens, self.seconds, self.stopped = 0, 0.0, False
        self.path = args.out / "checkpoint.pt"
        if self.path.exists():
            self.resume()
        if args.compile:
            self.model.compile_parts()
            losses.follow = torch.compile(losses.follow, dynamic=False)

    def resume(self) -> None:
        state = checkpoint.load(self.path, self.args.device)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.tokens, self.seconds, used = state["tokens"], state["seconds"], state["windows"] * state["length"]
        self.windows.cursor = used // self.args.length
        print(f"resumed at step {self.optimizer.step_count}, {self.tokens:,} tokens, {self.seconds / 60:.1f} min")

    def save(self) -> None:
        checkpoint.save(
            self.path,
            {
                "shape": checkpoint.shape_entry(self.shape),
                "model": self.model.state_dict(),
                "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "tokens": self.tokens,
                "seconds": self.seconds,
                "windows": self.windows.cursor,
                "length": self.args.length,
            },
        )

    @property
    def progress(self) -> float:
        by_time = self.seconds / (60 * self.args.minutes) if self.args.minutes else 0.0
        by_tokens = self.tokens / self.args.tokens if self.args.tokens else 0.0
        return max(by_time, by_tokens)

    @torch.no_grad()
    def average(self) -> None:
        """Pull the running average towards the weights; buffers are copied."""
        weight = max(1 - self.recipe.ema, 1 / (self.optimizer.step_count + 1))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), weight)
        for mine, theirs in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            mine.copy_(theirs)

    def step(self, report: bool) -> dict[str, float]:
        """One batch through forward, backward and update."""
        started = time.perf_counter()
        batch = self.windows.batch(self.args.batch, self.shape.mtp_layers).to(self.args.device)
        loss, parts = losses.compute(self.model, batch, self.recipe, report=report)
        loss.backward()
        scale = learning_scale(self.progress, self.optimizer.step_count, self.recipe)
        self.optimizer.step(scale)
        worst = move_router_bias(self.model, self.recipe.bias_rate * min(1.0, scale))
        self.average()
        self.tokens += self.args.batch * self.args.length
        self.seconds += min(time.perf_counter() - started, 60.0)
        return parts | {"lr": scale, "load": worst}

    def stop(self, *_: object) -> None:
        """A signal asks for a checkpoint after the step in hand."""
        self.stopped = True

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        self.model.train()
        saved = shown = time.perf_counter()
        shown_tokens = self.tokens
        while self.progress < 1:
            report = self.optimizer.step_count % self.args.every == 0
            parts = self.step(report)
            now = time.perf_counter()
            if report:
                self.show(parts, (self.tokens - shown_tokens) / (now - shown))
                shown, shown_tokens = now, self.tokens
            if now - saved > 60 * self.args.save_minutes or self.progress >= 1 or self.stopped:
                self.save()
                if self.stopped:
                    return
                self.log(parts)
                saved = time.perf_counter()

    def show(self, parts: dict[str, float], speed: float) -> None:
        text = " ".join(f"{k} {v:.3f}" for k, v in parts.items())
        step = self.optimizer.step_count
        print(f"{self.progress:6.1%} step {step} tokens {self.tokens:,} {speed:.0f}/s {text}", flush=True)

    def log(self, parts: dict[str, float]) -> None:
        """Measure the average on held-out windows and add a line to log.jsonl."""
        loss = held_out_loss(self.ema, self.held_out, self.args.length)
        print(f"       saved; held-out loss of the average {loss:.4f}", flush=True)
        where = {"step": self.optimizer.step_count, "tokens": self.tokens, "seconds": self.seconds}
        checkpoint.append_log(self.args.out / "log.jsonl", parts | where | {"held_out": loss})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=0, help="training time; the decay ends there")
    parser.add_argument("--tokens", type=float, default=0, help="training tokens; the decay ends there")
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--length", type=int, default=Recipe.length)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--every", type=int, default=10, help="steps between lines of progress")
    parser.add_argument("--save-minutes", type=float, default=5)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    args = parser.parse_args()
    if not args.minutes and not args.tokens:
        parser.error("give --minutes or --tokens")
    torch.set_num_threads(args.threads)
    Run(args).run()


if __name__ == "__main__":
    main()
