"""The floor: bytes that a pass must read, over how fast these threads read memory in the same minute.

Experts are counted as independent routing chooses them: n rows of top k among E touch E (1 - (1 - k/E)^n) of them on
average. Activations are not counted. Must not know: engines.
"""

import math
from dataclasses import dataclass

from benchmarks.peers.side import CHUNK
from stepahead.gguf import GGUFFile
from stepahead.models.step35_config import Step35Config

KV_ELEMENT_BYTES = 2  # both sides keep keys and values in F16


@dataclass(frozen=True, slots=True)
class KVLayer:
    row_bytes: int  # keys and values of one position
    window: int | None

    def nbytes(self, position: int) -> int:
        """Read by a row that stands at `position`."""
        seen = position + 1
        return self.row_bytes * (seen if self.window is None else min(seen, self.window))


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of one model, by what makes a pass read them."""

    dense: int  # of the trunk, read by every pass: all but experts, embeddings and output
    output: int  # read by a pass that gives logits
    experts: int
    num_experts: int
    top_k: int
    per_head: tuple[int, ...]  # a head's, its output matrix included
    trunk_kv: tuple[KVLayer, ...]
    head_kv: tuple[KVLayer, ...]

    @classmethod
    def of(cls, file: GGUFFile) -> "Weights":
        config = Step35Config.from_file(file)
        num_trunk = config.num_trunk_layers
        parts = {"dense": 0, "output": 0, "experts": 0}
        heads = [0] * config.num_declared_heads
        has_output = [False] * config.num_declared_heads
        for name, info in file.tensors.items():
            head = _block_index(name) - num_trunk
            if head >= 0:
                heads[head] += 0 if "embed_tokens" in name else info.nbytes
                has_output[head] |= "shared_head_head" in name
            elif name != "token_embd.weight":
                parts["output" if name == "output.weight" else "experts" if "_exps." in name else "dense"] += (
                    info.nbytes
                )
        kv = [
            KVLayer(2 * f.num_kv_heads * config.head_dim * KV_ELEMENT_BYTES, config.window if f.is_sliding else None)
            for f in config.layers
        ]
        router = config.router
        return cls(
            **parts,
            num_experts=router.num_experts if router else 0,
            top_k=router.top_k if router else 0,
            per_head=tuple(
                size + (0 if own else parts["output"]) for size, own in zip(heads, has_output, strict=True) if size
            ),
            trunk_kv=tuple(kv[:num_trunk]),
            head_kv=tuple(kv[num_trunk:]),
        )

    def rows(self, num_rows: int, position: int) -> float:
        """A trunk pass of num_rows rows from `position` on, logits for each; keys are read once for all rows."""
        return self._pass(num_rows, position) + self.output

    def prompt(self, num_tokens: int) -> float:
        """A prompt in chunks, logits of its last row."""
        ends = [min(start + CHUNK, num_tokens) for start in range(0, num_tokens, CHUNK)]
        starts = [0, *ends[:-1]]
        return sum(self._pass(end - start, start) for start, end in zip(starts, ends, strict=True)) + self.output

    def heads(self, num_heads: int, position: int) -> float:
        """One pass of each of the first num_heads heads."""
        kv = sum(layer.nbytes(position) for layer in self.head_kv[:num_heads])
        return float(sum(self.per_head[:num_heads]) + kv)

    def expert_share(self, num_rows: int) -> float:
        """Of the routed experts, the share that num_rows rows touch."""
        if self.num_experts == 0:
            return 0.0
        return (
            -math.expm1(num_rows * math.log1p(-self.top_k / self.num_experts)) if self.top_k < self.num_experts else 1
        )

    def _pass(self, num_rows: int, position: int) -> float:
        kv = sum(layer.nbytes(position) for layer in self.trunk_kv)
        return self.dense + self.experts * self.expert_share(num_rows) + kv


def _block_index(name: str) -> int:
    """N of "blk.N.…", -1 for other names."""
    parts = name.split(".", 2)
    return int(parts[1]) if parts[0] == "blk" else -1
