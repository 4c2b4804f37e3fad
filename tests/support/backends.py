"""The backends and instruction sets that invariants run on: the reference, and every table this CPU has."""

import platform

import pytest

from stepahead import LLM, _native

# The vector tables of this architecture, the one for older CPUs first.
VECTOR_TABLES = (
    ("cpu-neon", "cpu-neon_dotprod") if platform.machine() in ("aarch64", "arm64") else ("cpu-avx2", "cpu-avx512")
)
BACKENDS = ("reference", "cpu-scalar", *VECTOR_TABLES)


def load(path: object, backend: str, monkeypatch: pytest.MonkeyPatch, **kwargs: object) -> LLM:
    """An LLM on one of BACKENDS, with an F32 KV cache unless asked otherwise; skips where the CPU lacks the table."""
    name, _, isa = backend.partition("-")
    if isa:
        if isa not in _native.available_isas():
            pytest.skip(f"this CPU has no {isa}")
        monkeypatch.setenv("STEPAHEAD_ISA", isa)
    return LLM(path, device=name, **{"kv_type": "f32", "threads": 1 if isa == "scalar" else 2, **kwargs})
