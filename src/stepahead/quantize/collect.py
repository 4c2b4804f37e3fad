"""An importance matrix of a model, from texts: trunk and MTP heads run over them, what enters each matrix is summed.

Texts are cut into chunks that begin anew; heads run as they are trained, each on the rows of the one before. Must not
know: how inputs are observed, the form of the file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from stepahead.backends.base import BLOCK_SIZE, AttentionRows, Backend, Ints, KVBlocks
from stepahead.engine.batch import RowSpan, attention_rows
from stepahead.errors import ConfigError
from stepahead.gguf import GGUFFile
from stepahead.models.model import ForwardBatch, Model
from stepahead.models.registry import load_model
from stepahead.quantize.importance import ImportanceMatrix
from stepahead.quantize.observer import ObservingBackend

CHUNK_SIZE = 512
KV_TYPE = "f16"
TRUNK_OUTPUT = "output.weight"
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """token_ids of one text, and where it came from."""

    source: str
    token_ids: Sequence[int]


def collect_importance(
    file: GGUFFile,
    heads: GGUFFile | None,
    texts: Sequence[Calibration],
    *,
    chunk_size: int = CHUNK_SIZE,
    max_chunks: int | None = None,
    threads: int | None = None,
    on_progress: Progress | None = None,
) -> ImportanceMatrix:
    """heads: the file that has them, `file` itself or a companion; None: the trunk alone.

    on_progress(chunks done, chunks in all). Raises ConfigError where the texts make no chunk.
    """
    chunks = [chunk for text in texts for chunk in _chunks(text.token_ids, chunk_size)][:max_chunks]
    if not chunks:
        raise ConfigError("the texts have no two tokens to run over: give longer ones")
    files = [file] if heads is None or heads is file else [file, heads]
    observer = ObservingBackend(files, threads)
    backend = cast(Backend, observer)
    model = load_model(file, backend, heads)
    if chunk_size > model.context_length:
        raise ConfigError(f"chunks of {chunk_size} tokens are more than the context of {model.context_length}")
    runner = _Chunk.prepare(model, backend, chunk_size)
    for number, chunk in enumerate(chunks):
        runner.run(chunk)
        if on_progress is not None:
            on_progress(number + 1, len(chunks))
    sources = tuple(dict.fromkeys(text.source for text in texts))
    return ImportanceMatrix(observer.squares(), sources, len(chunks), chunk_size)


def _chunks(ids: Sequence[int], size: int) -> list[Ints]:
    cut = [np.array(ids[start : start + size], np.int32) for start in range(0, len(ids), size)]
    # A rest of a few tokens says little, and its first tokens, which see nothing, would count as much as any.
    return [chunk for chunk in cut if len(chunk) >= min(size, len(ids)) // 2 and len(chunk) > 1]


@dataclass(frozen=True, slots=True, eq=False)
class _Chunk:
    """Passes over one chunk at a time, in keys and values that each of them overwrites."""

    model: Model
    backend: Backend
    kv: tuple[KVBlocks, ...]

    @classmethod
    def prepare(cls, model: Model, backend: Backend, size: int) -> "_Chunk":
        blocks = -(-size // BLOCK_SIZE)
        kv = (backend.new_kv(blocks, layer.num_kv_heads, layer.head_dim, KV_TYPE) for layer in model.layers)
        return cls(model, backend, tuple(kv))

    def run(self, ids: Ints) -> None:
        self.backend.begin_step()
        hidden = self.model.forward(self._batch(ids, 0, is_draft=False, has_logits=True), self.kv, _go_on).hidden
        num_heads = 0 if self.model.draft is None else self.model.draft.num_heads
        for head in range(num_heads):
            # Row p of a head has token p beside the row before, p - 1, of the trunk or of the head before.
            start = head + 1
            if start >= len(ids):
                break
            before = self.backend.gather_rows(hidden, np.arange(hidden.shape[0] - 1, dtype=np.int32))
            # The trunk's output matrix is important for what the trunk puts into it.
            has_own = self.model.draft_outputs[head][1] != TRUNK_OUTPUT
            batch = self._batch(ids, start, is_draft=True, has_logits=has_own)
            hidden = self.model.draft_forward(head, batch, before, self.kv, _go_on).hidden

    def _batch(self, ids: Ints, start: int, is_draft: bool, has_logits: bool) -> ForwardBatch:
        span = RowSpan(start, len(ids), range(-(-len(ids) // BLOCK_SIZE)), first_valid=start)
        attention: list[AttentionRows | None] = [
            attention_rows([span], spec.window) if spec.is_draft == is_draft else None for spec in self.model.kv_specs
        ]
        positions = np.arange(start, len(ids), dtype=np.int32)
        logit_rows = np.arange(len(ids) - start if has_logits else 0, dtype=np.int32)
        return ForwardBatch(ids[start:], positions, tuple(attention), logit_rows)


def _go_on() -> None:
    """The checkpoint of a pass that nobody interrupts."""
