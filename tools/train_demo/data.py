"""Token streams on disk and random windows of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from . import corpus, tokenizer


def prepare(folder: Path, vocab: int) -> Tokenizer:
    """Make tokenizer.json, train.npy and heldout.npy in `folder` unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    made = path.exists()
    tok = tokenizer.load(path) if made else tokenizer.train((t for _, t in corpus.documents(False)), vocab, path)
    for name, held_out in (("train", False), ("heldout", True)):
        target = folder / f"{name}.npy"
        if not target.exists():
            np.save(target, encode(tok, held_out))
    return tok


def encode(tok: Tokenizer, held_out: bool) -> np.ndarray:
    """One stream [n] of uint16: BOS, a document, end of sentence, BOS, …"""
    bos, eos = tok.token_to_id(tokenizer.BOS), tok.token_to_id(tokenizer.EOS_TEXT)
    texts = [text for _, text in corpus.documents(held_out)]
    if not held_out:
        np.random.default_rng(0).shuffle(texts)
    parts = [[bos, *e.ids, eos] for e in tok.encode_batch(texts)]
    return np.concatenate([np.asarray(p, np.uint16) for p in parts])


class Windows:
    """Shuffled windows of a stream; every epoch has another offset. State is one integer."""

    def __init__(self, stream: np.ndarray, length: int, seed: int, cursor: int = 0) -> None:
        self.stream, self.length, self.seed, self.cursor = stream, length, seed, cursor
        self.per_epoch = (len(stream) - length) // length - 1

    def batch(self, rows: int, extra: int) -> torch.Tensor:
        """[rows, length + extra] int64."""
        picked = []
        for _ in range(rows):
            epoch, index = divmod(self.cursor, self.per_epoch)
            rng = np.random.default_rng([self.seed, epoch])
            offset = int(rng.integers(self.length))
            start = offset + int(rng.permutation(self.per_epoch)[index]) * self.length
            start = min(start, len(self.stream) - self.length - extra)
            picked.append(self.stream[start : start + self.length + extra].astype(np.int64))
            self.cursor += 1
        return torch.from_numpy(np.stack(picked))
