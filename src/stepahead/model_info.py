"""What a model file holds: architecture, layers, heads, types and bytes. Read from headers alone; nothing is loaded."""

from collections import Counter
from dataclasses import dataclass

from stepahead.backends.base import BLOCK_SIZE
from stepahead.engine.kv_cache import SLACK, blocks_needed
from stepahead.gguf import GGUFFile
from stepahead.gguf.block_name import block_number
from stepahead.models.model import KVSpec

EXPECTED_HEADS = 3  # of the published Step-3.5 and 3.7 models
KV_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}  # an element
NOT_READ = ("embeddings", "heads", "experts")  # by every row of the trunk; of the embeddings, one row a token
PARTS = (
    ("nextn.", "heads"),
    ("token_embd", "embeddings"),
    ("attn_", "attention"),  # attn_output is no output matrix
    ("output.", "output"),
    ("_exps", "experts"),
    ("_shexp", "shared experts"),
    ("ffn_gate_inp", "router"),
    ("exp_probs_b", "router"),
    ("ffn_norm", "other"),
    ("ffn_", "dense"),
)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts of one file, or of a trunk and its companion. Bytes are those of the weights."""

    path: str
    name: str
    arch: str
    num_trunk_layers: int
    num_heads_declared: int  # what the metadata says
    num_heads_found: int  # blocks that have MTP tensors
    num_head_outputs: int  # heads with an output matrix of their own; the others share the trunk's
    hidden_size: int
    vocab_size: int
    context_length: int
    window: int | None
    num_experts: int
    num_experts_used: int
    bytes_by_part: dict[str, int]
    bytes_by_type: dict[str, int]
    has_chat_template: bool
    is_heads_only: bool  # no trunk: nothing that runs by itself

    @property
    def nbytes(self) -> int:
        return sum(self.bytes_by_part.values())

    @property
    def bytes_per_token(self) -> float:
        """Weights that one row of the trunk reads: of routed experts, the share that is used."""
        experts = self.bytes_by_part.get("experts", 0)
        rest = sum(count for part, count in self.bytes_by_part.items() if part not in NOT_READ)
        return rest + (experts * self.num_experts_used / self.num_experts if self.num_experts else 0)

    @property
    def heads_verdict(self) -> str:
        """One sentence on the heads: whether drafting works, and what is missing."""
        found = self.num_heads_found
        if self.is_heads_only:
            return f"{found} MTP heads without a trunk: give this file with --mtp to the model that they were made for"
        if found == 0:
            declared = f" although {self.num_heads_declared} are declared" if self.num_heads_declared else ""
            return f"no MTP heads{declared}: decoding is plain; give a companion file with --mtp PATH to draft"
        if found < EXPECTED_HEADS:
            return (
                f"{found} of {EXPECTED_HEADS} MTP heads: "
                + ("the one head is reused for every draft token, " if found == 1 else "")
                + "the published model has three; a companion file with all of them drafts better (--mtp PATH)"
            )
        return f"{found} MTP heads: drafting up to {found} tokens a step"


def model_info(file: GGUFFile, heads: GGUFFile | None = None) -> ModelInfo:
    """Facts of `file`, its heads taken from `heads` if given. Raises ModelFormatError for wrong metadata types."""
    arch = file.get_str("general.architecture")
    source = heads or file
    declared = source.get_int(f"{arch}.nextn_predict_layers", 0)
    own_heads = file.get_int(f"{arch}.nextn_predict_layers", 0)
    num_trunk = file.get_int(f"{arch}.block_count", 0) - own_heads
    by_part, by_type = _bytes(file, heads, num_trunk)
    vocab = file.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in file.tensors else 0
    window = file.get_int(f"{arch}.attention.sliding_window", 0)
    found = _count(source, ".nextn.eh_proj.weight")
    return ModelInfo(
        path=str(file.path),
        name=file.get_str("general.name", file.path.stem),
        arch=arch,
        num_trunk_layers=num_trunk,
        num_heads_declared=declared,
        num_heads_found=found,
        num_head_outputs=_count(source, ".nextn.shared_head_head.weight"),
        hidden_size=file.get_int(f"{arch}.embedding_length", 0),
        vocab_size=vocab,
        context_length=file.get_int(f"{arch}.context_length", 0),
        window=window or None,
        num_experts=file.get_int(f"{arch}.expert_count", 0),
        num_experts_used=file.get_int(f"{arch}.expert_used_count", 0),
        bytes_by_part=by_part,
        bytes_by_type=by_type,
        has_chat_template="tokenizer.chat_template" in file.metadata,
        is_heads_only=found > 0 and not any(block_number(name) == 0 for name in file.tensors),
    )


def kv_bytes(
    specs: tuple[KVSpec, ...], kv_widths: dict[int, int], context_length: int, kv_type: str, chunk_tokens: int
) -> dict[str, int]:
    """Bytes of KV cache a full context of one sequence takes, by group. kv_widths[layer] = kv heads * head size."""
    return {
        spec.name: sum(
            round(2 * kv_widths[layer] * KV_BYTES[kv_type] * BLOCK_SIZE)
            * blocks_needed(spec, context_length, chunk_tokens, SLACK)
            for layer in spec.layers
        )
        for spec in specs
    }


def _bytes(file: GGUFFile, heads: GGUFFile | None, num_trunk: int) -> tuple[dict[str, int], dict[str, int]]:
    """(by part, by type) of the tensors that a run with these heads reads."""
    by_part: Counter[str] = Counter()
    by_type: Counter[str] = Counter()
    for source in (file,) if heads is None else (file, heads):
        for name, info in source.tensors.items():
            is_head = block_number(name) >= max(num_trunk, 0)
            if (source is heads) != is_head and heads is not None:
                continue  # a companion repeats the trunk's embeddings, a trunk may have heads of its own
            by_part["heads" if is_head else _part(name)] += info.nbytes
            by_type[info.type.name] += info.nbytes
    return dict(by_part.most_common()), dict(by_type.most_common())


def _count(file: GGUFFile, ending: str) -> int:
    return sum(name.endswith(ending) for name in file.tensors)


def _part(name: str) -> str:
    return next((part for mark, part in PARTS if mark in name), "other")
