"""The tensor rope_freqs.weight: what the RoPE frequencies of full layers are divided by."""

import numpy as np

from stepahead.convert.hub_config import FULL, ROTATED, HubConfig
from stepahead.gguf.block_quants import Floats

NAME = "rope_freqs.weight"


def rope_factors(config: HubConfig) -> Floats | None:
    """(head_dim / 2,) float32; None for a model without scaling.

    Only half of a head is rotated in full layers: the entries are those of its frequencies, and 1 for the rest, which
    nobody reads. Early converters computed them as if all of it were rotated.
    """
    scaling = config.scaling
    if scaling is None:
        return None
    rotated = int(config.head_dim * ROTATED[FULL])
    wavelengths = 2 * np.pi * config.theta_full ** (np.arange(0, rotated, 2) / rotated)
    smooth = (scaling.original_context / wavelengths - scaling.low) / (scaling.high - scaling.low)
    between = 1 / ((1 - smooth) / scaling.factor + smooth)
    factors = np.where(smooth > 1, 1.0, np.where(smooth < 0, scaling.factor, between))
    padding = np.ones(config.head_dim // 2 - len(factors))
    return np.concatenate([factors, padding]).astype(np.float32)
