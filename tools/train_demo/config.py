"""Shape of the demo model and the recipe that trains it: the only place with numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Shape:
    """Sizes of a Step-3.5 model; names follow the GGUF keys."""

    vocab: int = 2048
    embedding: int = 256
    trunk_layers: int = 14
    mtp_layers: int = 3
    head_dim: int = 64
    heads_full: int = 8
    heads_sliding: int = 12
    heads_kv: int = 2
    period: int = 4  # layer i of the trunk is full attention iff i % period == 0
    window: int = 128
    dense_layers: int = 1
    dense_width: int = 512
    experts: int = 8
    experts_used: int = 2
    expert_width: int = 256
    shared_width: int = 256
    expert_scale: float = 2.0
    theta_full: float = 5e6
    theta_sliding: float = 1e4
    rope_factor: float = 2.0  # llama3 scaling of the full layers, as in the real configuration
    rope_low: float = 1.0
    rope_high: float = 32.0
    rope_original: int = 131072
    eps: float = 1e-5
    context: int = 4096

    @property
    def layers(self) -> int:
        return self.trunk_layers + self.mtp_layers

    def sliding(self, layer: int) -> bool:
        """True for a sliding layer; every MTP layer slides."""
        return layer >= self.trunk_layers or layer % self.period != 0

    def heads(self, layer: int) -> int:
        return self.heads_sliding if self.sliding(layer) else self.heads_full

    def rotated(self, layer: int) -> int:
        """Rotated dimensions of a head: all of them (sliding) or the first half (full)."""
        return self.head_dim if self.sliding(layer) else self.head_dim // 2

    def is_moe(self, layer: int) -> bool:
        return self.dense_layers <= layer < self.trunk_layers


@dataclass(frozen=True)
class Recipe:
    """How it is trained. A trapezoid: warm up, stay, decay over the last `decay` share of the run."""

    length: int = 512
    batch: int = 8
    lr_matrix: float = 0.02  # Muon, on every 2-D weight of a block
    lr_table: float = 6e-3  # Adam, on embedding and output rows
    lr_vector: float = 4e-3  # Adam, on norms, gates' small rows and routers
    weight_decay: float = 0.03
    warmup_steps: int = 60
    early_steps: int = 262  # at half the rates; a first try at full rates and with smaller embeddings collapsed
    decay: float = 0.3
    floor: float = 0.02
    ema: float = 0.97
    head_weight: float = 0.15  # gradient of each head's loss into the trunk
    data_share: float = 0.3  # of a head's loss that is the data token; the rest follows the trunk
    bias_rate: float = 5e-3  # router bias step (balance without a loss)
    seed: int = 35


def as_dict(shape: Shape) -> dict[str, object]:
    return asdict(shape)
