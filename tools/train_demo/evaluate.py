"""Measure a model.

python -m tools.train_demo.evaluate --model demo.gguf --data FOLDER --text heldout.txt --out result.json

Acceptance is that of the exact chain. A round at position p has heads 0, 1, 2 propose the tokens at p + 1, p + 2 and
p + 3; head k counts only where the heads before it were right (conditional), so its row holds true tokens and one
teacher-forced pass over a finished continuation gives every round at once.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import tokenize
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from tokenizers import Tokenizer
from torch import Tensor

from . import checkpoint, corpus, tokenizer
from .generate import choose, continue_text
from .model import Step

ROWS, PROMPT, COUNT = 64, 96, 160  # continuations judged for acceptance
SHORT_ROWS, SHORT_COUNT = 320, 32  # greedy ones that end before they begin to loop
SAMPLES, SAMPLE_PROMPT, SAMPLE_COUNT = 200, 96, 80  # continuations judged as Python
FORCED_LENGTH, FORCED_WINDOWS = 512, 20  # teacher-forced agreement


@torch.no_grad()
def held_out_loss(model: Step, stream: np.ndarray, tok: Tokenizer, length: int = 512) -> dict[str, float]:
    """Trunk over consecutive windows of the held-out stream; every token but a window's first counts."""
    nats, count, size = 0.0, 0, 0
    windows = torch.from_numpy(stream[: len(stream) // length * length].astype(np.int64)).view(-1, length)
    for part in windows.split(8):
        logits = model.logits(model.trunk(part))[:, :-1].float()
        nats += F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum").item()
        count += part[:, 1:].numel()
        size += sum(len(tok.decode(row[1:].tolist(), skip_special_tokens=True).encode()) for row in part)
    return {"nats_per_token": nats / count, "bits_per_byte": nats / math.log(2) / size, "tokens": count, "bytes": size}


def head_choices(model: Step, tokens: Tensor, temperature: float, seed: int) -> Tensor:
    """Token that head k would propose for each position, [K, rows, T]; -1 where it has no row. tokens [rows, T]."""
    heads, (rows, length) = model.shape.mtp_layers, tokens.shape
    found = torch.full((heads, rows, length), -1)
    padded = F.pad(tokens, (0, heads))
    for k, out in enumerate(model.chain(model.trunk(tokens), padded)):
        logits = model.head_logits(k, out)
        for position in range(k + 2, length):  # row i predicts the token at i + k + 2
            found[k, :, position] = choose(logits[:, position - k - 2], position, temperature, seed)
    return found


@torch.no_grad()
def acceptance(
    model: Step, stream: np.ndarray, temperature: float, rows: int = ROWS, count: int = COUNT, seed: int = 1
) -> dict[str, object]:
    """Rounds over continuations that the trunk itself wrote after held-out prompts."""
    heads, length = model.shape.mtp_layers, PROMPT + count
    starts = np.linspace(0, len(stream) - PROMPT - 1, rows).astype(int)
    prompts = torch.from_numpy(np.stack([stream[s : s + PROMPT].astype(np.int64) for s in starts]))
    tokens = continue_text(model, prompts, count, temperature, seed)
    right = head_choices(model, tokens, temperature, seed) == tokens
    rounds = torch.stack([right[k, :, PROMPT + k : length - heads + 1 + k] for k in range(heads)])  # [K, rows, rounds]
    reached = torch.cat((torch.ones_like(rounds[:1]), rounds.cumprod(0).bool()))
    counts = reached.flatten(1).sum(1).tolist()
    return {
        "positions": counts[0],
        "conditional": [counts[k + 1] / counts[k] for k in range(heads)],
        "cumulative": [counts[k + 1] / counts[0] for k in range(heads)],
        "tokens_per_step": tokens_per_step(rounds),
        "distinct_4grams": distinct(tokens[:, PROMPT:]),
    }


def tokens_per_step(rounds: Tensor) -> float:
    """Walk every continuation round by round: accepted + 1 tokens each. rounds [K, rows, n]."""
    table = rounds.permute(1, 2, 0).tolist()
    steps = made = 0
    for row in table:
        at = 0
        while at < len(row):
            accepted = next((k for k, ok in enumerate(row[at]) if not ok), len(row[at]))
            steps, made, at = steps + 1, made + accepted + 1, at + accepted + 1
    return made / steps


def distinct(tokens: Tensor) -> float:
    """Share of 4-grams within a continuation that are not repeats: low means loops."""
    shares = []
    for row in tokens.tolist():
        grams = list(zip(row, row[1:], row[2:], row[3:], strict=False))
        shares.append(len(set(grams)) / len(grams))
    return sum(shares) / len(shares)


@torch.no_grad()
def teacher_forced(model: Step, tok: Tokenizer, text: str) -> dict[str, object]:
    """Agreement of head and trunk on true text, cheap to recompute with any engine.

    The text's tokens (no BOS) are cut into windows of 512; each is a sequence of its own. Head k has rows p = k + 1 …
    511 with input (x_p, g_{k-1} at p - 1); row p agrees if its best token is the best token of the trunk's row p.
    """
    heads, ids = model.shape.mtp_layers, tok.encode(text).ids
    windows = torch.tensor(ids[: FORCED_WINDOWS * FORCED_LENGTH]).view(-1, FORCED_LENGTH)
    agree, rows = [0] * heads, [0] * heads
    for part in windows.split(4):
        hidden = model.trunk(part)
        best = model.logits(hidden).argmax(-1)
        for k, out in enumerate(model.chain(hidden, F.pad(part, (0, heads)))):
            same = model.head_logits(k, out).argmax(-1)[:, : FORCED_LENGTH - k - 1] == best[:, k + 1 :]
            agree[k] += int(same.sum())
            rows[k] += same.numel()
    shares = [a / r for a, r in zip(agree, rows, strict=True)]
    return {"windows": len(windows), "length": FORCED_LENGTH, "rows": rows, "agreement": shares}


def python_errors(text: str) -> str | None:
    """None if the complete lines of `text` pass `tokenize`, else the kind of error."""
    text = text[: text.rfind("\n") + 1]
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.ERRORTOKEN and not token.string.isspace():
                return "error token"
    except tokenize.TokenError as error:
        return "cut inside a string or bracket" if "EOF" in str(error) else "token error"
    except IndentationError:
        return "indentation"
    return None


def statement_prompts(tok: Tokenizer, count: int, length: int) -> Tensor:
    """Held-out code up to a line that begins a top-level statement: [count, length]."""
    found = []
    for _, text in corpus.documents(True):
        ids, spans = (e := tok.encode(text)).ids, e.offsets
        starts = set(line_starts(text))
        found += [ids[i - length : i] for i in range(length, len(ids)) if spans[i][0] in starts]
    picked = np.linspace(0, len(found) - 1, count).astype(int)
    return torch.tensor([found[i] for i in picked])


def line_starts(text: str) -> list[int]:
    """Offsets of lines at column 0 that begin with a definition, a class, a decorator or an import."""
    offsets, at = [], 0
    for line in text.split("\n"):
        if line.startswith(("def ", "class ", "@", "import ", "from ")):
            offsets.append(at)
        at += len(line) + 1
    return offsets


def python_share(model: Step, tok: Tokenizer) -> dict[str, object]:
    """Continuations of 80 tokens at T = 0.8, judged alone."""
    prompts = statement_prompts(tok, SAMPLES, SAMPLE_PROMPT)
    tokens = continue_text(model, prompts, SAMPLE_COUNT, 0.8, seed=2)[:, SAMPLE_PROMPT:]
    end = tok.token_to_id(tokenizer.EOS_TEXT)
    texts = [tok.decode(row[: row.index(end)] if end in row else row) for row in tokens.tolist()]
    errors = [python_errors(text) for text in texts]
    kinds = {kind: errors.count(kind) for kind in sorted({e for e in errors if e})}
    passed, cut = errors.count(None), kinds.get("cut inside a string or bracket", 0)
    return {
        "samples": len(texts),
        "passed": passed / len(texts),
        "passed_or_cut": (passed + cut) / len(texts),
        "errors": kinds,
        "examples": texts[:6],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file or a checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="folder with tokenizer.json and heldout.npy")
    parser.add_argument("--text", type=Path, help="text of the teacher-forced agreement")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    is_gguf = args.model.suffix == ".gguf"
    model = checkpoint.load_gguf(args.model) if is_gguf else checkpoint.load_model(args.model, dtype=torch.float32)
    tok, stream = tokenizer.load(args.data / "tokenizer.json"), np.load(args.data / "heldout.npy")
    result: dict[str, object] = {"model": args.model.name, "bytes": args.model.stat().st_size}
    result["held_out"] = held_out_loss(model, stream, tok)
    result["greedy"] = acceptance(model, stream, 0.0)
    result["greedy_short"] = acceptance(model, stream, 0.0, SHORT_ROWS, SHORT_COUNT)
    result["sampled_0.8"] = acceptance(model, stream, 0.8)
    result["python"] = python_share(model, tok)
    if args.text:
        result["teacher_forced"] = teacher_forced(model, tok, args.text.read_text(encoding="utf-8"))
    text = json.dumps(result, indent=2, ensure_ascii=False)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
