"""What callers may get wrong, said once and before a kernel is launched: kernels trust what they are given."""

from typing import Any

import numpy as np

from stepahead.backends.cuda.rows import Rows
from stepahead.errors import BackendError


def demand(condition: bool, what: str) -> None:
    if not condition:
        raise BackendError(what)


def demand_array(what: str, array: np.ndarray[Any, Any], dtype: type[np.generic], ndim: int) -> None:
    if array.dtype != dtype or array.ndim != ndim:
        wanted = f"{ndim}-dimensional {np.dtype(dtype)}"
        raise BackendError(f"{what}: a {wanted} array, please, not {array.dtype} of shape {array.shape}")


def demand_same(what: str, x: Rows, y: Rows) -> None:
    if x.shape != y.shape:
        raise BackendError(f"{what}: {x.shape} and {y.shape}; both need the same shape")


def demand_span(what: str, first: int, count: int, limit: int) -> None:
    if first < 0 or count < 0 or first + count > limit:
        raise BackendError(f"{what}: rows {first} to {first + count}, there are {limit}")


def demand_within(what: str, values: np.ndarray[Any, Any], limit: int) -> None:
    """0 <= value < limit."""
    if values.size and (values.min() < 0 or values.max() >= limit):
        raise BackendError(f"{what}: from {values.min()} to {values.max()}, there are {limit}")
