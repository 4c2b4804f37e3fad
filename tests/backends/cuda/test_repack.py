"""Packing on the device is the packing that numpy specifies, bit for bit."""

import numpy as np
import pytest

pytest.importorskip("triton")

import torch

from backends.cuda.kernel_cases import LAUNCH
from stepahead.backends.cuda.formats.fields import fields_of
from stepahead.backends.cuda.formats.format import FORMATS
from stepahead.backends.cuda.formats.pack import pack
from stepahead.backends.cuda.formats.source import SOURCES
from stepahead.backends.cuda.kernels.repack import repack
from stepahead.gguf.quants import QuantType


def check(type: QuantType, rows: int, width: int) -> None:
    data = np.random.default_rng(rows).integers(0, 256, (rows, type.row_bytes(width)), np.uint8)
    expected = pack(fields_of(data, type), FORMATS[type])
    records = torch.full(expected.shape, -1, dtype=torch.int32)
    repack(LAUNCH, torch.from_numpy(data), type, width, records)
    np.testing.assert_array_equal(records.numpy().view(np.uint32), expected)


@pytest.mark.parametrize("type", SOURCES, ids=lambda type: type.name)
def test_a_record(type: QuantType) -> None:
    check(type, 16, 256)


@pytest.mark.parametrize("type", [QuantType.Q4_K, QuantType.Q5_1], ids=lambda type: type.name)
def test_ragged_matrices(type: QuantType) -> None:
    check(type, 17, 512 if type.block_size == 256 else 256 + 96)
