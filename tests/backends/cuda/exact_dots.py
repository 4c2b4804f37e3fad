"""Products in the interpreter whose bits do not depend on where in a tile a row lies, as those of a GPU do not.

The interpreter multiplies with numpy, and numpy with BLAS, which adds up in another order for other shapes and places.
In float64 the products of halves are exact, and sums of some hundred of them so nearly that all orders round to the
same float32.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from triton import knobs


@contextlib.contextmanager
def exact_dots(step: int | None = None) -> Iterator[None]:
    """While it lasts. Nothing changes on a GPU. step: inputs after which a sum is rounded, as an instruction does it;
    then it does not matter how many of them one dot has."""
    if not knobs.runtime.interpret:
        yield
        return
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def create_dot(self: Any, a: Any, b: Any, d: Any, *_: object) -> Any:
        total, width = d.data, a.data.shape[1]
        with np.errstate(all="ignore"):  # what is masked may be anything
            for first in range(0, width, step or width):
                part = slice(first, first + (step or width))
                product = np.matmul(a.data[:, part].astype(np.float64), b.data[part].astype(np.float64))
                total = (product + total).astype(d.data.dtype)
        return TensorHandle(total, d.dtype.scalar)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpreterBuilder, "create_dot", create_dot)
        yield
