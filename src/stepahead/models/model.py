"""What every model family offers to the engine: its layers, what they cache, how its heads draft, and two passes.

The engine builds `ForwardBatch`es and reads the specs below; it never learns a family's name. This file knows
backends, not requests or schedules.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from stepahead.backends.base import AttentionRows, Ints, KVBlocks, Rope, SampledRows, SampleRows, Tensor
from stepahead.gguf import GGUFFile
from stepahead.models.draft_vocab import DraftVocab

Chain = Literal["exact", "catchup"]
"""How heads beyond the first get their hidden rows (spec §9.4): `exact` is the trained chain, head k reads head
k-1's outputs; `catchup` is llama.cpp's, every head reads the trunk's rows and only draft rows are chained."""


@dataclass(frozen=True, slots=True, eq=False)
class LayerSpec:
    """One block, trunk or MTP, decided from the file's per-layer arrays."""

    index: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int | None  # keys a row sees, itself included; None: all
    rope: Rope
    kv_group: int  # index into Model.kv_specs
    clamp: float  # of dense and shared SwiGLU; 0: none
    expert_clamp: float  # of routed SwiGLU; 0: none
    is_moe: bool


@dataclass(frozen=True, slots=True)
class KVSpec:
    """A group of layers that share block tables: same reach, trunk or heads."""

    name: str  # "full", "sliding", "mtp-full", "mtp-sliding"
    window: int | None
    layers: tuple[int, ...]  # layer indices
    is_draft: bool  # rows are written by drafting, not by the trunk


# --8<-- [start:draft]
@dataclass(frozen=True, slots=True)
class DraftSpec:
    """What the MTP heads need. Every field is a fact of the family, so that no proposer names one.

    hidden_tap: the trunk row handed to head 0; recycle_tap: the head row handed to head k+1;
    concat_order: halves of eh_proj's input. Step-3.5: pre-norm, pre-norm, embedding first (spec §3).
    """

    num_heads: int
    layers: tuple[int, ...]  # layer index of each head
    window: int | None  # widest reach of the heads; None: some head attends to everything
    hidden_tap: Literal["pre_norm", "post_norm"] = "pre_norm"
    recycle_tap: Literal["pre_norm", "post_norm"] = "pre_norm"
    concat_order: Literal["embedding_hidden", "hidden_embedding"] = "embedding_hidden"
    is_recurrent: bool = False  # one head, reused for every draft token
    max_depth: int = 3


# --8<-- [end:draft]
@dataclass(frozen=True, slots=True, eq=False)
class ForwardBatch:
    """The flat view of one pass: rows of several sequences, one after the other."""

    token_ids: Ints  # (num_rows,)
    positions: Ints  # (num_rows,)
    attention: tuple[AttentionRows | None, ...]  # one per Model.kv_specs; None where the pass has no such layer
    logit_rows: Ints  # (num_logits,) ascending row numbers whose logits are wanted
    # Of a head: ascending row numbers whose output is wanted, those of logit_rows among them; None: all. Of the others
    # the head computes keys and values alone.
    output_rows: Ints | None = None
    sample: SampleRows | None = None  # of logit_rows, where the backend chooses tokens


@dataclass(frozen=True, slots=True, eq=False)
class ForwardOutput:
    logits: Tensor | None  # (num_logits, number of ids); None where logit_rows is empty
    hidden: Tensor  # (num_rows, hidden_size): the tap that the next head reads; of output_rows alone, if given
    logit_ids: Ints | None = None  # the token id of each column of a draft's logits; None: the whole vocabulary
    sampled: SampledRows | None = None  # of the rows of logits, where the backend has chosen


Checkpoint = Callable[[], None]
"""Called between layers; raises to abandon the pass."""


# --8<-- [start:model]
class Model(Protocol):
    """One family, one file. Made by its `load`, from a GGUF file and a backend."""

    vocab_size: int
    hidden_size: int
    context_length: int
    layers: tuple[LayerSpec, ...]  # trunk, then heads
    num_trunk_layers: int
    kv_specs: tuple[KVSpec, ...]
    step_nbytes: int  # of the trunk's weights that one token's pass reads
    draft: DraftSpec | None  # None: no usable heads
    draft_outputs: tuple[tuple[GGUFFile, str], ...]  # where the output matrix of each head lies: file and tensor
    draft_vocab: DraftVocab | None  # may be set after loading; None: a draft may be any token

    def forward(self, batch: ForwardBatch, kv: Sequence[KVBlocks], checkpoint: Checkpoint) -> ForwardOutput:
        """The trunk. kv[i] belongs to layer i; hidden has every row, at DraftSpec.hidden_tap."""
        ...

    def draft_forward(
        self, head: int, batch: ForwardBatch, hidden: Tensor, kv: Sequence[KVBlocks], checkpoint: Checkpoint
    ) -> ForwardOutput:
        """Head `head` over rows (token x_p, hidden of p-1): logits of x_{p+1}, of the draft vocabulary;
        hidden is at DraftSpec.recycle_tap."""
        ...

    def load_outputs(self) -> None:
        """What heads read for want of a draft_vocab may be loaded by the first such pass; call this where that pass
        must not load."""
        ...


# --8<-- [end:model]
