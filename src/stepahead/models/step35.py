"""Step-3.5-Flash and the text part of Step-3.7-Flash: trunk, MTP heads, and how they are loaded from GGUF.

Formulas: StepFun's model as llama.cpp (PR #24340) and SGLang run it. The trunk's last output *before* the final norm
feeds head 0; a head's block output before shared_head_norm feeds the next head. Dense or mixture of experts is decided
by the presence of a router tensor. No sampling, no scheduling, no device code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stepahead.backends.base import Backend, Ints, KVBlocks, QuantMatrix, Rope, RopeTable, Tensor
from stepahead.errors import ConfigError, ModelFormatError
from stepahead.gguf import GGUFFile
from stepahead.gguf.block_name import block_number
from stepahead.models.draft_vocab import DraftVocab
from stepahead.models.late_matrix import loaded
from stepahead.models.layers import Block, MoE, OutputRows
from stepahead.models.model import Checkpoint, DraftSpec, ForwardBatch, ForwardOutput, KVSpec, LayerSpec
from stepahead.models.step35_config import MAX_RECURRENT_DEPTH, LayerFacts, Step35Config
from stepahead.models.weights import FILES, MatrixSource, Weights

# Tensors of a heads-only file that repeat the trunk's.
SHARED_TENSORS = ("token_embd.weight", "output_norm.weight", "output.weight", "rope_freqs.weight")


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """One MTP head: eh_proj over [norm(embedding), norm(hidden)], a decoder block, an output matrix."""

    enorm: Tensor  # (1, hidden)
    hnorm: Tensor
    eh_proj: QuantMatrix  # (hidden, 2 * hidden), columns: embedding half, hidden half
    block: Block
    shared_head_norm: Tensor  # (1, hidden); the trunk's output_norm where the file has none
    shared_head_head: QuantMatrix  # (vocab, hidden), late; the trunk's output where the file has none
    embed_tokens: QuantMatrix  # (vocab, hidden); the trunk's token_embd where the file has none


class Step35:
    """A loaded model. Attributes named as in `models.model.Model`; weights carry their GGUF names."""

    def __init__(self, file: GGUFFile, backend: Backend, heads: GGUFFile | None, source: MatrixSource = FILES) -> None:
        """Load the trunk from `file` and the heads from `heads` (the same file, a companion, or None: no heads).

        source: where the bytes of the matrices are taken from.
        Raises ModelFormatError for missing or misshapen tensors, UnsupportedModelError for unknown ones and
        ConfigError where `heads` does not belong to this trunk.
        """
        config = Step35Config.from_file(file)
        self.backend = backend
        self.config = config
        self.hidden_size = config.hidden_size
        self.context_length = config.context_length
        self.num_trunk_layers = config.num_trunk_layers
        head_config = _head_config(file, config, heads)
        num_heads = head_config.num_declared_heads if head_config else 0

        facts = config.layers[: self.num_trunk_layers]
        if head_config:
            facts += head_config.layers[self.num_trunk_layers :]
        self.kv_specs, groups = _kv_specs(facts, self.num_trunk_layers, config.window)

        weights = Weights(file, backend, source)
        _refuse_heads_only(weights, self.num_trunk_layers)
        self.layers = tuple(
            _layer_spec(index, fact, config, groups[index], _source(index, config, weights, heads))
            for index, fact in enumerate(facts)
        )
        self._load_trunk(weights)
        self.heads: tuple[Head, ...] = ()
        self.draft_outputs: tuple[tuple[GGUFFile, str], ...] = ()
        self.draft_vocab: DraftVocab | None = None
        self.head_nbytes = 0
        if head_config and heads is not None:
            own = weights if heads is file else Weights(heads, backend, source)
            self._load_heads(own, head_config, is_companion=heads is not file)
            self.draft_outputs = tuple(_output_of(spec, file, heads) for spec in self.layers[self.num_trunk_layers :])
        if not self.heads or heads is not file:  # heads that are not wanted this time
            weights.leave(name for name in file.tensors if block_number(name) >= self.num_trunk_layers)
        weights.finish()
        self.trunk_nbytes = weights.nbytes - (self.head_nbytes if heads is file else 0)
        idle = sum(block.ffn.idle_nbytes for block in self.blk if isinstance(block.ffn, MoE))
        self.step_nbytes = self.trunk_nbytes - self.token_embd.nbytes - idle
        self.draft = _draft_spec(self.layers[self.num_trunk_layers :]) if num_heads else None

    def _load_trunk(self, weights: Weights) -> None:
        hidden = self.hidden_size
        self.vocab_size = weights.shape("token_embd.weight")[0]
        self.token_embd = weights.table("token_embd.weight", self.vocab_size, hidden)
        self.output_norm = weights.vector("output_norm.weight", hidden)
        self.output = weights.matrix("output.weight", self.vocab_size, hidden)
        weights.leave(["rope_freqs.weight"])  # read by Step35Config
        self.blk = tuple(
            Block.load(weights, f"blk.{spec.index}.", spec, hidden, self.config.router if spec.is_moe else None)
            for spec in self.layers[: self.num_trunk_layers]
        )

    def _load_heads(self, weights: Weights, config: Step35Config, is_companion: bool) -> None:
        """From the trunk's own file, or from a companion, of which only the heads are read."""
        before = weights.nbytes
        self.heads = tuple(self._load_head(weights, spec, config) for spec in self.layers[self.num_trunk_layers :])
        self.head_nbytes = weights.nbytes - before
        if is_companion:
            weights.leave(SHARED_TENSORS)
            weights.leave(name for name in weights.file.tensors if 0 <= block_number(name) < self.num_trunk_layers)
            weights.finish()

    def _load_head(self, weights: Weights, spec: LayerSpec, config: Step35Config) -> Head:
        hidden, prefix = self.hidden_size, f"blk.{spec.index}."
        nextn = f"{prefix}nextn."
        own_norm = weights.optional_vector(f"{nextn}shared_head_norm.weight", hidden)
        own_head = f"{nextn}shared_head_head.weight"
        own_embed = weights.optional_table(f"{nextn}embed_tokens.weight", self.vocab_size, hidden)
        return Head(
            enorm=weights.vector(f"{nextn}enorm.weight", hidden),
            hnorm=weights.vector(f"{nextn}hnorm.weight", hidden),
            eh_proj=weights.matrix(f"{nextn}eh_proj.weight", hidden, 2 * hidden),
            block=Block.load(weights, prefix, spec, hidden, config.router if spec.is_moe else None),
            shared_head_norm=self.output_norm if own_norm is None else own_norm,
            shared_head_head=(
                weights.late_matrix(own_head, self.vocab_size, hidden) if weights.has(own_head) else self.output
            ),
            embed_tokens=self.token_embd if own_embed is None else own_embed,
        )

    def forward(self, batch: ForwardBatch, kv: Sequence[KVBlocks], checkpoint: Checkpoint) -> ForwardOutput:
        """The trunk: hidden is every row of the last block's output, before output_norm."""
        assert batch.output_rows is None, "the trunk gives every row"
        ropes = self._rope_tables(batch.positions, self.layers[: self.num_trunk_layers])
        x = self.backend.embed(self.token_embd, batch.token_ids)
        for block in self.blk:
            checkpoint()
            x = self._run(block, x, ropes, batch, kv)
        return ForwardOutput(self._logits(x, batch.logit_rows, self.output_norm, self.output), x)

    def draft_forward(
        self, head: int, batch: ForwardBatch, hidden: Tensor, kv: Sequence[KVBlocks], checkpoint: Checkpoint
    ) -> ForwardOutput:
        """Head `head` over rows (token x_p, hidden row of p - 1); hidden out is the block's output, un-normed."""
        checkpoint()
        backend, eps, part = self.backend, self.config.eps, self.heads[head]
        embedding = backend.rms_norm(backend.embed(part.embed_tokens, batch.token_ids), part.enorm, eps)
        joined = backend.concat(embedding, backend.rms_norm(hidden, part.hnorm, eps))  # (num_rows, 2 * hidden)
        x = backend.linear(joined, part.eh_proj)
        ropes = self._rope_tables(batch.positions, (part.block.spec,))
        x = self._run(part.block, x, ropes, batch, kv)
        logit_rows = batch.logit_rows
        if batch.output_rows is not None:
            logit_rows = np.searchsorted(batch.output_rows, logit_rows).astype(np.int32)
        if self.draft_vocab is None or len(logit_rows) == 0:
            return ForwardOutput(self._logits(x, logit_rows, part.shared_head_norm, part.shared_head_head), x)
        normed = backend.rms_norm(backend.gather_rows(x, logit_rows), part.shared_head_norm, eps)
        logits, ids = self.draft_vocab.logits(head, normed)
        return ForwardOutput(logits, x, ids)

    def load_outputs(self) -> None:
        for head in self.heads:
            loaded(head.shared_head_head)

    def _run(
        self, block: Block, x: Tensor, ropes: dict[Rope, RopeTable], batch: ForwardBatch, kv: Sequence[KVBlocks]
    ) -> Tensor:
        spec = block.spec
        rows = batch.attention[spec.kv_group]
        assert rows is not None, f"the batch has no rows for KV group {spec.kv_group}"
        wanted = None
        if batch.output_rows is not None:
            wanted = OutputRows.of(self.backend, batch.output_rows, spec.rope, rows)
        return block(self.backend, x, self.config.eps, ropes[spec.rope], rows, kv[spec.index], wanted)

    def _logits(self, x: Tensor, logit_rows: Ints, norm: Tensor, output: QuantMatrix) -> Tensor | None:
        if len(logit_rows) == 0:
            return None
        rows = self.backend.gather_rows(x, logit_rows)
        return self.backend.linear(self.backend.rms_norm(rows, norm, self.config.eps), loaded(output))

    def _rope_tables(self, positions: Ints, layers: Sequence[LayerSpec]) -> dict[Rope, RopeTable]:
        return {rope: self.backend.rope_table(rope, positions) for rope in {spec.rope for spec in layers}}


def _head_config(file: GGUFFile, config: Step35Config, heads: GGUFFile | None) -> Step35Config | None:
    """The config that describes the heads, None where there are none to load."""
    if heads is None:
        return None
    head_config = config if heads is file else Step35Config.from_file(heads)
    has_heads = f"blk.{head_config.num_trunk_layers}.nextn.eh_proj.weight" in heads.tensors
    if not has_heads or head_config.num_declared_heads == 0:
        if heads is file:
            return None
        raise ConfigError(f"{heads.path}: has no MTP heads; give a file whose blocks have nextn tensors")
    trunk = (config.num_trunk_layers, config.hidden_size, config.head_dim, config.window)
    wanted = (
        head_config.num_trunk_layers,
        head_config.hidden_size,
        head_config.head_dim,
        head_config.window,
    )
    if trunk != wanted:
        raise ConfigError(
            f"{heads.path}: heads for (layers, width, head size, window) {wanted}, but {file.path} has {trunk}; "
            "give the companion of this model"
        )
    return head_config


def _refuse_heads_only(weights: Weights, num_trunk_layers: int) -> None:
    if not weights.has("blk.0.attn_norm.weight") and weights.has(f"blk.{num_trunk_layers}.nextn.eh_proj.weight"):
        raise ModelFormatError(
            f"{weights.file.path}: holds MTP heads only; give the trunk's file as the model and this one as mtp"
        )


def _source(index: int, config: Step35Config, weights: Weights, heads: GGUFFile | None) -> GGUFFile:
    return weights.file if index < config.num_trunk_layers or heads is None else heads


def _output_of(spec: LayerSpec, file: GGUFFile, heads: GGUFFile) -> tuple[GGUFFile, str]:
    own = f"blk.{spec.index}.nextn.shared_head_head.weight"
    return (heads, own) if own in heads.tensors else (file, "output.weight")


def _layer_spec(index: int, fact: LayerFacts, config: Step35Config, group: int, source: GGUFFile) -> LayerSpec:
    return LayerSpec(
        index=index,
        num_heads=fact.num_heads,
        num_kv_heads=fact.num_kv_heads,
        head_dim=config.head_dim,
        window=config.window if fact.is_sliding else None,
        rope=config.sliding_rope if fact.is_sliding else config.full_rope,
        kv_group=group,
        clamp=fact.clamp,
        expert_clamp=fact.expert_clamp,
        is_moe=f"blk.{index}.ffn_gate_inp.weight" in source.tensors,
    )


def _kv_specs(
    facts: Sequence[LayerFacts], num_trunk_layers: int, window: int
) -> tuple[tuple[KVSpec, ...], tuple[int, ...]]:
    """The KV groups that occur, and the group of each layer."""
    keys = [(index >= num_trunk_layers, fact.is_sliding) for index, fact in enumerate(facts)]
    distinct = sorted(set(keys))
    specs = tuple(
        KVSpec(
            name=("mtp-" if is_draft else "") + ("sliding" if is_sliding else "full"),
            window=window if is_sliding else None,
            layers=tuple(index for index, key in enumerate(keys) if key == (is_draft, is_sliding)),
            is_draft=is_draft,
        )
        for is_draft, is_sliding in distinct
    )
    return specs, tuple(distinct.index(key) for key in keys)


def _draft_spec(layers: Sequence[LayerSpec]) -> DraftSpec:
    windows = [spec.window for spec in layers]
    is_recurrent = len(layers) == 1
    return DraftSpec(
        num_heads=len(layers),
        layers=tuple(spec.index for spec in layers),
        window=None if None in windows else max(w for w in windows if w is not None),
        is_recurrent=is_recurrent,
        max_depth=MAX_RECURRENT_DEPTH if is_recurrent else len(layers),
    )
