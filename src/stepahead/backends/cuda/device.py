"""One GPU: where its tensors lie, what it can do. Owns the choice between a real one and Triton's interpreter."""

from dataclasses import dataclass

import torch
from triton import knobs

from stepahead.errors import BackendError

INTERPRETED = "cpu"


@dataclass(frozen=True, slots=True)
class Device:
    """arch: compute capability as Triton writes it, 90 for 9.0; num_sms: multiprocessors. Both 0 where interpreted."""

    torch: torch.device
    name: str
    arch: int
    num_sms: int
    nbytes: int  # of memory, in all

    @property
    def is_interpreted(self) -> bool:
        return self.torch.type == INTERPRETED

    @classmethod
    def open(cls, index: int = 0) -> "Device":
        """GPU number `index`; the interpreter, if TRITON_INTERPRET is set. Raises BackendError where there is none."""
        if knobs.runtime.interpret:
            return cls(torch.device(INTERPRETED), "Triton's interpreter", 0, 0, 0)
        if not torch.cuda.is_available():
            raise BackendError("device='cuda': torch sees no GPU; check the driver (nvidia-smi) and torch's build")
        count = torch.cuda.device_count()
        if not 0 <= index < count:
            raise BackendError(f"device='cuda:{index}': there are {count} GPUs; give cuda:0 to cuda:{count - 1}")
        facts = torch.cuda.get_device_properties(index)
        return cls(
            torch.device("cuda", index),
            facts.name,
            10 * facts.major + facts.minor,
            facts.multi_processor_count,
            facts.total_memory,
        )
