"""How tokens are to be chosen, and what was chosen, as tensors on the device."""

from collections.abc import Mapping

import numpy as np
import torch

from stepahead.backends.base import Floats, Ints, SampleRows
from stepahead.backends.cuda.host_arrays import HostArrays


class SampleInputs:
    """`SampleRows` on the device: int64 words, and float64 temperature, top_p and min_p, (num_logits,) each."""

    __slots__ = ("min_p", "plain", "positions", "seeds", "temperatures", "top_k", "top_p")

    def __init__(self, rows: SampleRows, arrays: HostArrays) -> None:
        self.seeds = arrays(rows.seeds.view(np.int64))
        self.positions = arrays(rows.positions)
        self.top_k = arrays(rows.top_k)
        self.plain = arrays(rows.is_plain.view(np.int8))
        self.temperatures = arrays(rows.temperatures)
        self.top_p = arrays(rows.top_p)
        self.min_p = arrays(rows.min_p)

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> "SampleInputs":
        """Over tensors by these names."""
        inputs = object.__new__(cls)
        for name in cls.__slots__:
            setattr(inputs, name, tensors[name])
        return inputs


class SampledRows:
    """token_ids: (num_logits,) int32, -1 where the host has to look; leads: float64. Fetched once, together."""

    __slots__ = ("_copied", "_ids", "_leads", "leads", "token_ids")

    def __init__(self, token_ids: torch.Tensor, leads: torch.Tensor) -> None:
        self.token_ids = token_ids
        self.leads = leads
        self._ids: torch.Tensor | None = None
        self._leads: torch.Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def fetch(self) -> None:
        if self._ids is not None:
            return
        self._ids, self._leads = _host_copy(self.token_ids), _host_copy(self.leads)
        if self.token_ids.is_cuda:
            self._copied = torch.cuda.current_stream(self.token_ids.device).record_event()

    def ids(self) -> Ints:
        self._wait()
        assert self._ids is not None
        return self._ids.numpy()

    def margins(self) -> Floats:
        self._wait()
        assert self._leads is not None
        return self._leads.numpy().astype(np.float32)

    def _wait(self) -> None:
        self.fetch()
        if self._copied is not None:
            self._copied.synchronize()
            self._copied = None


def _host_copy(values: torch.Tensor) -> torch.Tensor:
    """What they are when the device is here; of its own memory, for they may be written anew."""
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.is_cuda)
    return host.copy_(values, non_blocking=True)
