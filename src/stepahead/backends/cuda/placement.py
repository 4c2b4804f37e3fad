"""Which layers' routed experts stay in the host's memory, where a model is larger than its GPU's.

Whole layers, so that a layer's numbers are one backend's; and the last ones. All layers are read as often as one
another, so that for the speed it is no matter which. The last ones leave the first part of a pass without a wait, they
are what `--gpu-layers` has always meant elsewhere, and a model that is given one more of them keeps its first layers'
bits. Heads have theirs on the GPU: they run more often than the trunk.

Pure: needs neither torch nor triton, nor a GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from stepahead.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ExpertLayer:
    """A layer of the trunk that has routed experts."""

    index: int
    device_nbytes: int  # of those, packed for the GPU
    host_nbytes: int  # as the file has them


@dataclass(frozen=True, slots=True)
class Placement:
    """layers: whose routed experts are on the host, ascending. device_nbytes: what they would take of the GPU's memory;
    host_nbytes: what they are of the file."""

    layers: tuple[int, ...] = ()
    device_nbytes: int = 0
    host_nbytes: int = 0

    @classmethod
    def of_last(cls, experts: Sequence[ExpertLayer], count: int) -> "Placement":
        chosen = experts[len(experts) - count :]
        return cls(
            tuple(layer.index for layer in chosen),
            sum(layer.device_nbytes for layer in chosen),
            sum(layer.host_nbytes for layer in chosen),
        )


def place(
    experts: Sequence[ExpertLayer],
    num_layers: int,
    cpu_experts: int | None,
    gpu_layers: int | None,
    lacking: int,
) -> Placement:
    """experts: ascending. num_layers: of the trunk. cpu_experts: so many layers' experts on the host. gpu_layers: those
    of all layers but so many first ones. Neither: as few as give the GPU `lacking` bytes, or all, if even they do not.
    Raises ConfigError for more layers than there are."""
    assert cpu_experts is None or gpu_layers is None, "the settings refuse that"
    if gpu_layers is not None:
        if gpu_layers > num_layers:
            raise ConfigError(
                f"gpu_layers={gpu_layers} is out of range: the model has {num_layers} layers; leave it out, and as "
                "many as fit are on the GPU"
            )
        return Placement.of_last(experts, sum(layer.index >= gpu_layers for layer in experts))
    if cpu_experts is not None:
        if cpu_experts > len(experts):
            raise ConfigError(
                f"cpu_experts={cpu_experts} is out of range: {len(experts)} layers of the model have experts; give at "
                'most that, or "auto"'
            )
        return Placement.of_last(experts, cpu_experts)
    given = accumulate((layer.device_nbytes for layer in reversed(experts)), initial=0)
    return Placement.of_last(experts, next((n for n, nbytes in enumerate(given) if nbytes >= lacking), len(experts)))
