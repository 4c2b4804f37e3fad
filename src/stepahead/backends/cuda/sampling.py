"""How tokens are to be chosen, and what was chosen, as tensors on the device."""

from collections.abc import Mapping

import numpy as np
import torch

from stepahead.backends.base import Floats, Ints, SampleRows
from stepahead.backends.cuda.host_arrays import HostArrays

UNDECIDED = -1


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
    """token_ids: (num_logits,) int32, UNDECIDED where the host has to look; leads: float64. Fetched once, together."""

    __slots__ = ("_ids", "_leads", "leads", "token_ids")

    def __init__(self, token_ids: torch.Tensor, leads: torch.Tensor) -> None:
        self.token_ids = token_ids
        self.leads = leads
        self._ids: Ints | None = None
        self._leads: Floats | None = None

    def ids(self) -> Ints:
        if self._ids is None:
            self._fetch()
        assert self._ids is not None
        return self._ids

    def margins(self) -> Floats:
        self.ids()
        assert self._leads is not None
        return self._leads

    def _fetch(self) -> None:
        self._ids = self.token_ids.cpu().numpy()
        self._leads = self.leads.cpu().numpy().astype(np.float32)
