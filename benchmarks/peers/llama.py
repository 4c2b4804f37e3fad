"""The part of llama.cpp's C API that a measurement needs, bound with ctypes to the library in the xllamacpp wheel.

Structures and two mangled names are those of one build (VERSION); another one is refused, for a wrong field would be
read as a right one. Owns Model, Context and HeadDriver, which drafts as llama.cpp's own server does. Must not know:
what is timed.
"""

import ctypes as c
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

BUILD = "b11549"
VERSION = "2026.10.11549"  # of the wheel that holds it
UBATCH = 512
F32, F16 = 0, 1  # ggml type ids
MMAP = 1  # llama_load_mode
CONTEXT_PLAIN, CONTEXT_MTP = 0, 1  # llama_context_type
ENCODE_AND_DECODE = 1  # what llama_process is asked to do

Floats = npt.NDArray[np.float32]
Rows = Literal["all", "last", "none"]
_LogCallback = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)


class _Embedding(c.Structure):
    _fields_ = (("data", c.c_void_p), ("num_rows", c.c_size_t), ("width", c.c_size_t))


class _ModelParams(c.Structure):
    _fields_ = (
        *((name, c.c_void_p) for name in ("devices", "buffer_overrides")),
        *((name, c.c_int32) for name in ("n_gpu_layers", "split_mode", "load_mode", "lazy_mode", "main_gpu")),
        *((name, c.c_void_p) for name in ("tensor_split", "progress", "progress_data", "kv_overrides")),
        *((name, c.c_bool) for name in ("vocab_only", "check_tensors", "use_extra_bufts", "no_host", "no_alloc")),
        ("load_mtp", c.c_bool),
    )


class _ContextParams(c.Structure):
    _fields_ = (
        *((name, c.c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq")),
        *((name, c.c_uint32) for name in ("n_outputs_max", "n_outputs_max_per_seq")),
        *((name, c.c_int32) for name in ("n_threads", "n_threads_batch", "ctx_type", "rope_scaling", "pooling")),
        *((name, c.c_int32) for name in ("attention", "flash_attn")),
        *((name, c.c_float) for name in ("rope_base", "rope_scale", "yarn_ext", "yarn_attn", "yarn_fast")),
        *(("yarn_slow", c.c_float), ("yarn_orig", c.c_uint32), ("defrag", c.c_float)),
        *((name, c.c_void_p) for name in ("eval_callback", "eval_data")),
        *(("type_k", c.c_int32), ("type_v", c.c_int32), ("moe_cache", c.c_size_t)),
        *((name, c.c_void_p) for name in ("abort_callback", "abort_data")),
        *((name, c.c_bool) for name in ("embeddings", "offload_kqv", "no_perf", "op_offload", "swa_full")),
        *(("kv_unified", c.c_bool), ("samplers", c.c_void_p), ("n_samplers", c.c_size_t), ("other", c.c_void_p)),
    )


_P, _I, _B, _FLOATS = c.c_void_p, c.c_int32, c.c_bool, c.POINTER(c.c_float)
# name -> result, arguments
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "llama_backend_init": (None,),
    "llama_log_set": (None, _LogCallback, _P),
    "llama_model_default_params": (_ModelParams,),
    "llama_context_default_params": (_ContextParams,),
    "llama_model_load_from_file": (_P, c.c_char_p, _ModelParams),
    "llama_model_free": (None, _P),
    "llama_model_n_embd": (_I, _P),
    "llama_model_n_layer_nextn": (_I, _P),
    "llama_model_get_vocab": (_P, _P),
    "llama_vocab_n_tokens": (_I, _P),
    "llama_init_from_model": (_P, _P, _ContextParams),
    "llama_free": (None, _P),
    "llama_get_memory": (_P, _P),
    "llama_memory_seq_rm": (_B, _P, _I, _I, _I),
    "llama_batch_ext_init": (_P, _P),
    "llama_batch_ext_free": (None, _P),
    "llama_batch_ext_clear": (None, _P),
    "llama_batch_ext_add_token": (_I, _P, _I, _I),
    "llama_batch_ext_set_pos": (_B, _P, _I, c.POINTER(_I)),
    "llama_batch_ext_set_embd_state": (_B, _P, _I, _Embedding),
    "llama_batch_ext_set_output_logits": (_B, _P, _I, _B),
    "llama_process": (_I, _P, _I, _P),
    "llama_synchronize": (None, _P),
    "llama_get_logits_ith": (_FLOATS, _P, _I),
}
# Not in the C API: short name -> mangled name, result, arguments.
_MANGLED: dict[str, tuple[Any, ...]] = {
    "set_embeddings_nextn": ("_Z26llama_set_embeddings_nextnP13llama_contextbb", None, _P, _B, _B),
    "set_nextn_layer": ("_Z28llama_set_nextn_layer_offsetP13llama_contexti", None, _P, _I),
    "get_embeddings_nextn": ("_Z26llama_get_embeddings_nextnP13llama_context", _FLOATS, _P),
    "get_embeddings_nextn_ith": ("_Z30llama_get_embeddings_nextn_ithP13llama_contexti", _FLOATS, _P, _I),
}


def why_missing() -> str | None:
    """What keeps llama.cpp from being measured here, and the way out; None if nothing does."""
    try:
        version = importlib.metadata.version("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        return f"xllamacpp is not installed: pip install xllamacpp=={VERSION}"
    if version != VERSION:
        return f"xllamacpp {version} has another layout than {VERSION}: pip install xllamacpp=={VERSION}"
    return None


def shared_library() -> c.CDLL:
    """llama.cpp and ggml. Raises RuntimeError where the wheel is missing or another one."""
    reason = why_missing()
    if reason is not None:
        raise RuntimeError(reason)
    spec = importlib.util.find_spec("xllamacpp")
    assert spec is not None and spec.origin is not None
    return c.CDLL(str(next(Path(spec.origin).parent.glob("xllamacpp*.so"))))


@cache
def _library() -> SimpleNamespace:
    """The functions above by their names without llama_, backend started, silent."""
    shared = shared_library()
    functions = SimpleNamespace(keep_silent=_LogCallback(lambda _level, _text, _data: None))

    def bind(name: str, symbol: str, result: Any, *arguments: Any) -> None:
        function = getattr(shared, symbol)
        function.restype, function.argtypes = result, list(arguments)
        setattr(functions, name, function)

    for symbol, signature in _FUNCTIONS.items():
        bind(symbol.removeprefix("llama_"), symbol, *signature)
    for name, signature in _MANGLED.items():
        bind(name, *signature)
    functions.log_set(functions.keep_silent, None)
    functions.backend_init()
    return functions


class Model:
    """A loaded file. repack: let llama.cpp copy weights into the layouts of its faster kernels."""

    def __init__(self, path: str, repack: bool) -> None:
        lib = _library()
        params = lib.model_default_params()
        params.n_gpu_layers, params.load_mode, params.load_mtp, params.use_extra_bufts = 0, MMAP, True, repack
        self.handle = lib.model_load_from_file(path.encode(), params)
        if not self.handle:
            raise RuntimeError(f"{path}: llama.cpp cannot load it")
        self.hidden_size: int = lib.model_n_embd(self.handle)
        self.num_heads: int = lib.model_n_layer_nextn(self.handle)
        self.vocab_size: int = lib.vocab_n_tokens(lib.model_get_vocab(self.handle))

    def close(self) -> None:
        _library().model_free(self.handle)


class Context:
    """One sequence on a model. is_draft: of its MTP heads; is_f32: nothing is rounded to F16, at some cost."""

    def __init__(
        self, model: Model, context_length: int, threads: int, is_draft: bool = False, is_f32: bool = False
    ) -> None:
        lib = _library()
        params = lib.context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context_length, UBATCH, UBATCH
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = F32 if is_f32 else F16
        if is_f32:
            params.flash_attn = 0  # its sums are of halves
        params.swa_full = False  # as its server has it: keys beyond the window are dropped, by both sides
        params.ctx_type = CONTEXT_MTP if is_draft else CONTEXT_PLAIN
        self.model = model
        self.handle = lib.init_from_model(model.handle, params)
        if not self.handle:
            raise RuntimeError(f"llama.cpp makes no context of {context_length} tokens")
        self._memory = lib.get_memory(self.handle)
        self._batch = lib.batch_ext_init(self.handle)

    def close(self) -> None:
        _library().batch_ext_free(self._batch)
        _library().free(self.handle)

    def run(self, token_ids: Sequence[int], start: int, logits: Rows, hidden: Floats | None = None) -> None:
        """One pass over rows at start, start + 1, …; hidden: (num_rows, hidden) what a head reads beside them."""
        lib = _library()
        lib.batch_ext_clear(self._batch)
        last = len(token_ids) - 1
        rows = None if hidden is None else np.ascontiguousarray(hidden, np.float32)
        for row, token in enumerate(token_ids):
            lib.batch_ext_add_token(self._batch, 0, int(token))
            lib.batch_ext_set_pos(self._batch, row, c.byref(_I(start + row)))
            lib.batch_ext_set_output_logits(self._batch, row, logits == "all" or (logits == "last" and row == last))
            if rows is not None:
                state = _Embedding(rows[row].ctypes.data, 1, rows.shape[1])
                lib.batch_ext_set_embd_state(self._batch, row, state)
        code = lib.process(self.handle, ENCODE_AND_DECODE, self._batch)
        if code != 0:
            raise RuntimeError(f"llama.cpp refuses a pass of {len(token_ids)} rows at {start}: code {code}")
        lib.synchronize(self.handle)

    def choice(self, row: int) -> int:
        """The greedy choice after a row of the last pass."""
        return int(self.logits(row).argmax())

    def logits(self, row: int) -> Floats:
        """(vocab_size,) a view, valid until the next pass."""
        pointer = _library().get_logits_ith(self.handle, row)
        return np.ctypeslib.as_array(pointer, (self.model.vocab_size,))

    def truncate(self, num_tokens: int) -> None:
        if not _library().memory_seq_rm(self._memory, 0, num_tokens, -1):
            raise RuntimeError(f"llama.cpp cannot go back to {num_tokens} tokens")

    # --- heads ---
    def give_hidden(self, wanted: bool, only_outputs: bool) -> None:
        """Keep the rows that a head reads; only_outputs: of rows with logits alone."""
        _library().set_embeddings_nextn(self.handle, wanted, only_outputs)

    def use_head(self, head: int) -> None:
        _library().set_nextn_layer(self.handle, head)

    def hidden(self, num_rows: int) -> Floats:
        """(num_rows, hidden) of the last pass."""
        pointer = _library().get_embeddings_nextn(self.handle)
        return np.ctypeslib.as_array(pointer, (num_rows, self.model.hidden_size)).copy()

    def hidden_row(self, row: int) -> Floats:
        pointer = _library().get_embeddings_nextn_ith(self.handle, row)
        return np.ctypeslib.as_array(pointer, (self.model.hidden_size,)).copy()


class HeadDriver:
    """Drafts and catches up as b11549's server does with heads that follow one another: draft pass k runs rows 0 .. k
    again, and after each pass of the trunk every head runs all of its rows."""

    def __init__(self, trunk: Context, context_length: int, threads: int, is_f32: bool = False) -> None:
        self._trunk = trunk
        self._heads = Context(trunk.model, context_length, threads, is_draft=True, is_f32=is_f32)
        trunk.give_hidden(True, only_outputs=False)
        self._heads.give_hidden(True, only_outputs=True)
        self._pending = np.zeros(trunk.model.hidden_size, np.float32)  # hidden row before the next position
        self._hidden: Floats = np.empty((0, trunk.model.hidden_size), np.float32)  # of the rows last caught up with

    def close(self) -> None:
        self._trunk.give_hidden(False, only_outputs=False)
        self._heads.close()

    def draft(self, last_id: int, position: int, depth: int) -> list[int]:
        """`depth` tokens after last_id, which stands at `position` and has not been through the trunk."""
        ids, hidden = [last_id], [self._pending]
        for head in range(depth):
            self._heads.truncate(position)
            self._heads.use_head(head)
            self._heads.run(ids, position, "last", np.stack(hidden))
            ids.append(self._heads.choice(len(ids) - 1))
            hidden.append(self._heads.hidden_row(len(hidden) - 1))
        self._heads.use_head(0)
        return ids[1:]

    def catch_up(self, token_ids: Sequence[int], start: int) -> None:
        """Run every head over the rows that the trunk has just run."""
        self._hidden = self._trunk.hidden(len(token_ids))
        shifted = np.concatenate([self._pending[None], self._hidden[:-1]])
        for head in range(self._trunk.model.num_heads):
            self._heads.truncate(start)
            self._heads.use_head(head)
            self._heads.run(token_ids, start, "none", shifted)
        self._heads.use_head(0)
        self._pending = self._hidden[-1]

    def keep(self, start: int, num_rows: int) -> None:
        """Of the rows from `start` that were caught up with, the first num_rows stand."""
        self._trunk.truncate(start + num_rows)
        self._heads.truncate(start + num_rows)
        self._pending = self._hidden[num_rows - 1]
