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
def exact_dots() -> Iterator[None]:
    """While it lasts. Nothing changes on a GPU."""
    if not knobs.runtime.interpret:
        yield
        return
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def create_dot(self: Any, a: Any, b: Any, d: Any, *_: object) -> Any:
        with np.errstate(all="ignore"):  # what is masked may be anything
            product = np.matmul(a.data.astype(np.float64), b.data.astype(np.float64)) + d.data
        return TensorHandle(product.astype(d.data.dtype), d.dtype.scalar)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpreterBuilder, "create_dot", create_dot)
        yield
