"""Contract I10: layers point one way, public names are pinned, every op has its reference, test and benchmark."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import stepahead
from stepahead.backends.base import Backend

ROOT = Path(__file__).parents[2]
SOURCE = Path(stepahead.__file__).parent
HAS_CHECKOUT = (ROOT / "src" / "stepahead").is_dir()

# A module may import modules of its own rank and below. Longest match decides.
RANKS = {
    "stepahead.errors": 0,
    "stepahead.mapped_files": 0,
    "stepahead.folder_sync": 0,
    "stepahead.hub_folder": 0,
    "stepahead.gguf": 1,
    "stepahead.tokenizer": 1,
    "stepahead.demo": 1,
    "stepahead.machine": 1,
    "stepahead.prefix_store": 1,
    "stepahead.texts": 1,
    "stepahead._native": 2,
    "stepahead.backends": 3,
    "stepahead.backends.cuda.cycle_state": 4,
    "stepahead.backends.cuda.device_cycles": 4,
    "stepahead.backends.cuda.recorded_cycle": 4,
    "stepahead.backends.cuda.replayed_model": 4,
    "stepahead.backends.cuda.replayed_pass": 4,
    "stepahead.quantize.encoder": 3,
    "stepahead.quantize": 4,
    "stepahead.quantize.collect": 7,
    "stepahead.quantize.check": 8,
    "stepahead.models": 4,
    "stepahead.config": 4,
    "stepahead.convert": 4,
    "stepahead.repack": 5,
    "stepahead.engine": 5,
    "stepahead.speculative": 6,
    "stepahead.engine.engine": 7,
    "stepahead.engine.teacher": 7,
    "stepahead.completion": 7,
    "stepahead.job": 7,
    "stepahead.job_loop": 7,
    "stepahead.request_builder": 7,
    "stepahead.memory": 7,
    "stepahead.opening": 7,
    "stepahead.model_info": 7,
    "stepahead.trace_file": 7,
    "stepahead.batch_file": 7,
    "stepahead.batch_run": 7,
    "stepahead.hub": 7,
    "stepahead.turns": 7,
    "stepahead.grammar": 7,
    "stepahead.llm": 8,
    "stepahead.async_llm": 8,
    "stepahead.diagnosis": 8,
    "stepahead.splice": 8,
    "stepahead.filecheck": 8,
    "stepahead.server": 9,
    "stepahead.cli": 10,
    "stepahead": 10,
}
DEVICE_LIBRARIES = ("stepahead._native", "torch", "triton")
# What computes: backends, and the encoders, which are no op of a model.
COMPUTING = ("stepahead.backends.", "stepahead.quantize.encoder", "stepahead.quantize.observer")
# Methods of Backend that are plumbing, not ops: memory and the beginning of a step.
PLUMBING = {
    "describe", "load_matrix", "load_vector", "upload", "download", "zeros", "new_kv", "begin_step", "rope_table",
    "gather_rows", "copy_rows", "copy_block", "read_block", "write_block", "preferred_layout", "repack",
    "matrix_nbytes", "write_rows", "write_ids", "finish_loading", "routed_experts", "remember",
    "write_turned",  # qk_norm_rope and kv_write
    "sample",  # its specification is engine/sampler.py
}  # fmt: skip
MODULES = sorted(SOURCE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = ("stepahead", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rank(name: str) -> int:
    return RANKS[max((known for known in RANKS if name == known or name.startswith(f"{known}.")), key=len)]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_layers_point_one_way(path: Path) -> None:
    name = module_name(path)
    if name == "stepahead":
        return  # names the public things, and imports them late
    for other in imported(path):
        if other.startswith("stepahead.") and other.removeprefix("stepahead.") not in stepahead.__all__:
            assert rank(other) <= rank(name), f"{name} must not import {other}"
        if other.startswith(DEVICE_LIBRARIES):
            assert name.startswith(COMPUTING), f"{name} must not import {other}"


def test_public_names_are_pinned() -> None:
    assert sorted(stepahead.__all__) == [
        "BackendError", "CapacityError", "Completion", "ConfigError", "LLM", "ModelFormatError", "RequestError",
        "SamplingParams", "Speculation", "SpeculationStats", "StepaheadError", "StreamChunk", "UnsupportedModelError",
        "__version__",
    ]  # fmt: skip
    for name in stepahead.__all__:
        assert getattr(stepahead, name) is not None


def ops() -> list[str]:
    names = [name for name, _ in inspect.getmembers(Backend, inspect.isfunction) if not name.startswith("_")]
    return [name for name in names if name not in PLUMBING]


@pytest.mark.skipif(not HAS_CHECKOUT, reason="reads the tests and benchmarks of a checkout")
@pytest.mark.parametrize("op", ops())
def test_every_op_has_a_reference_a_test_and_a_benchmark(op: str) -> None:
    for folder in ("src/stepahead/backends/reference", "tests/backends/reference", "tests/backends/cpu", "benchmarks"):
        texts = [path.read_text() for path in (ROOT / folder).rglob("*.py")]
        assert any(re.search(rf"\b{op}\b", text) for text in texts), f"{op} is missing in {folder}"


@pytest.mark.skipif(not HAS_CHECKOUT, reason="reads the sources of a checkout")
@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400, f"{path.name} has {text.count(chr(10))} lines, the limit is 400"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.body[0].lineno + 1  # a command's flags are its signature
            assert length <= 60, f"{path.name}: {node.name} has {length} lines, the limit is 60"
