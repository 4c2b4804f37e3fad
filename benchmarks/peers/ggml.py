"""One matrix product of ggml, the library under llama.cpp, bound with ctypes to the same wheel as llama.py.

Owns Product: weights in ggml's memory, in the file's layout or in the one of its faster kernels, and their product with
rows of activations. Must not know: what is timed.
"""

import ctypes as c
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.peers.llama import shared_library
from stepahead.gguf import QuantType

OBJECT_BYTES = 32  # ggml keeps one before each tensor
TENSOR_BYTES = 336
EXTRA_AT = 320  # of a tensor: what a layout of its own left there; null if the type has none
GRAPH_BYTES = 1 << 20

_P, _I, _L = c.c_void_p, c.c_int, c.c_int64


class _InitParams(c.Structure):
    _fields_ = (("mem_size", c.c_size_t), ("mem_buffer", c.c_void_p), ("no_alloc", c.c_bool))


# name -> result, arguments
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "ggml_init": (_P, _InitParams),
    "ggml_free": (None, _P),
    "ggml_tensor_overhead": (c.c_size_t,),
    "ggml_new_tensor_2d": (_P, _P, _I, _L, _L),
    "ggml_mul_mat": (_P, _P, _P, _P),
    "ggml_new_graph": (_P, _P),
    "ggml_build_forward_expand": (None, _P, _P),
    "ggml_backend_cpu_init": (_P,),
    "ggml_backend_cpu_set_n_threads": (None, _P, _I),
    "ggml_backend_free": (None, _P),
    "ggml_backend_graph_compute": (_I, _P, _P),
    "ggml_backend_cpu_buffer_type": (_P,),
    "ggml_backend_alloc_ctx_tensors_from_buft": (_P, _P, _P),
    "ggml_backend_buffer_free": (None, _P),
    "ggml_backend_tensor_set": (None, _P, _P, c.c_size_t, c.c_size_t),
    "ggml_backend_tensor_get": (None, _P, _P, c.c_size_t, c.c_size_t),
}
_REPACK = "_Z35ggml_backend_cpu_repack_buffer_typev"


@cache
def _library() -> SimpleNamespace:
    shared = shared_library()
    functions = SimpleNamespace()
    for name, (result, *arguments) in {**_FUNCTIONS, _REPACK: (_P,)}.items():
        function = getattr(shared, name)
        function.restype, function.argtypes = result, arguments
        setattr(functions, "repack_buffer_type" if name == _REPACK else name.removeprefix("ggml_"), function)
    if functions.tensor_overhead() != OBJECT_BYTES + TENSOR_BYTES:
        raise RuntimeError("the tensors of this ggml have another size: their fields would be misread")
    return functions


class Product:
    """y = x @ weights.T for rows x. Weights (out, row_bytes) of `type` are copied."""

    def __init__(self, type: QuantType, weights: npt.NDArray[np.uint8], width: int, threads: int, repack: bool) -> None:
        lib = _library()
        self.type, self.width, self.num_out = type, width, weights.shape[0]
        self._backend = lib.backend_cpu_init()
        lib.backend_cpu_set_n_threads(self._backend, threads)
        buffer_type = lib.repack_buffer_type() if repack else lib.backend_cpu_buffer_type()
        self._context = lib.init(_InitParams(GRAPH_BYTES, None, True))
        self._weights = lib.new_tensor_2d(self._context, type.id, width, self.num_out)
        self._buffer = lib.backend_alloc_ctx_tensors_from_buft(self._context, buffer_type)
        self.is_repacked = repack and bool(c.c_void_p.from_address(self._weights + EXTRA_AT).value)
        if self.is_repacked or not repack:
            lib.backend_tensor_set(self._weights, weights.ctypes.data, 0, weights.nbytes)
        self._graphs: dict[int, tuple[Any, ...]] = {}

    def prepare(self, x: npt.NDArray[np.float32]) -> None:
        """Make the graph for x (rows, width)."""
        lib, rows = _library(), len(x)
        context = lib.init(_InitParams(GRAPH_BYTES, None, True))
        tensor = lib.new_tensor_2d(context, QuantType.F32.id, self.width, rows)
        y = lib.mul_mat(context, self._weights, tensor)
        graph = lib.new_graph(context)
        lib.build_forward_expand(graph, y)
        buffer = lib.backend_alloc_ctx_tensors_from_buft(context, lib.backend_cpu_buffer_type())
        lib.backend_tensor_set(tensor, np.ascontiguousarray(x).ctypes.data, 0, x.nbytes)
        self._graphs[rows] = (context, graph, y, buffer)

    def run(self, rows: int) -> None:
        _, graph, _, _ = self._graphs[rows]
        if _library().backend_graph_compute(self._backend, graph) != 0:
            raise RuntimeError(f"ggml failed a product of {rows} rows")

    def result(self, rows: int) -> npt.NDArray[np.float32]:
        """(rows, out) of the last run."""
        y = np.empty((rows, self.num_out), np.float32)
        _library().backend_tensor_get(self._graphs[rows][2], y.ctypes.data, 0, y.nbytes)
        return y

    def close(self) -> None:
        lib = _library()
        for context, _, _, buffer in self._graphs.values():
            lib.backend_buffer_free(buffer)
            lib.free(context)
        lib.backend_buffer_free(self._buffer)
        lib.free(self._context)
        lib.backend_free(self._backend)
