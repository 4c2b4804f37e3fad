"""Activations on the device: float32 rows, and the half-precision form that matrix kernels read."""

import torch


class HalfRows:
    """Rows as float16 times a power of two of each row's own, exact but for the rounding to 11 bits.

    values: (num_rows, padded + padded / 8) float16: the width padded with zeros to a multiple of 256, the largest
    magnitude of a row in [2^14, 2^15]; then of each 16 of them the mean, as a half and the half that it lacks, which
    the minima of weights are multiplied with. exponents: (num_rows,) float32 powers of two;
    x = values * exponents[:, None].
    """

    __slots__ = ("exponents", "values")

    def __init__(self, values: torch.Tensor, exponents: torch.Tensor) -> None:
        self.values = values
        self.exponents = exponents


class Rows:
    """What the backend passes as `Tensor`: values is (num_rows, width) float32, contiguous."""

    __slots__ = ("_values", "half")

    def __init__(self, values: torch.Tensor, half: HalfRows | None = None) -> None:
        assert values.dtype == torch.float32 and values.dim() == 2 and values.is_contiguous()
        self._values = values
        self.half = half  # made by the op that wrote the values, or by the first product that reads them

    @property
    def values(self) -> torch.Tensor:
        return self._values

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]
