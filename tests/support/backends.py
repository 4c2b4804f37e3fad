"""The backends and instruction sets that invariants run on: the reference, and every table this CPU has."""

import pytest

from stepahead import LLM, _native

BACKENDS = ("reference", "cpu-scalar", "cpu-avx2", "cpu-avx512")


def load(path: object, backend: str, monkeypatch: pytest.MonkeyPatch, **kwargs: object) -> LLM:
    """An LLM on one of BACKENDS, with an F32 KV cache unless asked otherwise; skips where the CPU lacks the table."""
    name, _, isa = backend.partition("-")
    if isa:
        if isa not in _native.available_isas():
            pytest.skip(f"this CPU has no {isa}")
        monkeypatch.setenv("STEPAHEAD_ISA", isa)
    return LLM(path, backend=name, **{"kv_type": "f32", "threads": 1 if isa == "scalar" else 2, **kwargs})
