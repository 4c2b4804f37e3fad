"""Whole files: what is written, what is refused, and that nothing half done ever looks whole."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from stepahead import LLM
from stepahead.errors import CapacityError, ConfigError, ModelFormatError
from stepahead.gguf import GGUFFile, QuantType, TensorData, dequantize, write_gguf, write_split_gguf
from stepahead.quantize import stream
from stepahead.quantize.encoder import encode
from stepahead.quantize.importance import ImportanceMatrix, InputSquares
from stepahead.quantize.mix import MIXES, find_mix
from stepahead.quantize.plan import Request, make_plan
from stepahead.quantize.quantization import QuantizationReport, quantize_file
from support.random_step35 import Shape


def run(source: Path, output: Path, mix: str = "Q4_K_M", **changes: object) -> QuantizationReport:
    options = {name: changes.pop(name) for name in ("threads", "max_shard_bytes", "on_progress") if name in changes}
    with GGUFFile.open(source) as file:
        return quantize_file(make_plan(file, Request(find_mix(mix), **changes)), output, **options)


@pytest.mark.parametrize("mix", sorted(MIXES))
def test_every_tensor_is_what_the_encoder_makes_of_it(bf16: Path, tmp_path: Path, mix: str) -> None:
    report = run(bf16, tmp_path / "out.gguf", mix)
    old, new = GGUFFile.open(bf16), GGUFFile.open(report.files[0])
    assert list(old.tensors) == list(new.tensors)
    for tensor in report.tensors:
        name, planned = tensor.planned.info.name, tensor.planned
        info = new.tensors[name]
        assert (info.type, info.shape) == (planned.type, old.tensors[name].shape)
        if planned.is_copied:
            assert new.data(name).tobytes() == old.data(name).tobytes()
        else:
            assert new.data(name).tobytes() == encode(old.array(name), planned.type).tobytes()


def test_metadata_is_the_old_one_but_for_types(bf16: Path, tmp_path: Path) -> None:
    new = GGUFFile.open(run(bf16, tmp_path / "out.gguf").files[0]).typed_metadata()
    old = GGUFFile.open(bf16).typed_metadata()
    assert new.pop("general.file_type").value == 15
    assert new.pop("general.quantization_version").value == 2
    assert new.keys() == old.keys()
    for key, value in old.items():
        assert new[key].type == value.type
        assert np.array_equal(new[key].value, value.value)


def test_it_runs_with_its_heads(bf16: Path, tmp_path: Path) -> None:
    out = run(bf16, tmp_path / "out.gguf").files[0]
    with LLM(bf16, threads=1) as old, LLM(out, threads=1) as new:
        assert new.info.num_heads_found == old.info.num_heads_found == 3
        before, after = old.logits(range(3, 43)), new.logits(range(3, 43))
        assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.99
        assert (before != after).any()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("piece", [256, 3000, 1 << 22])
def test_pieces_and_threads_change_nothing(
    bf16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, piece: int
) -> None:
    importance = random_importance(bf16)
    expected = run(bf16, tmp_path / "a.gguf", importance=importance, threads=1).files[0].read_bytes()
    monkeypatch.setattr(stream, "PIECE_ELEMENTS", piece)
    assert run(bf16, tmp_path / "b.gguf", importance=importance, threads=threads).files[0].read_bytes() == expected


def test_rows_that_do_not_fit(model_path, tmp_path: Path) -> None:
    source = model_path(Shape(num_trunk=2, hidden=160, width=288, type=QuantType.F32))
    report = run(source, tmp_path / "out.gguf")
    found = {t.planned.info.name: t.planned for t in report.tensors}
    assert found["blk.0.attn_q.weight"].type is QuantType.Q5_0  # rows of 160, instead of Q4_K
    assert found["output.weight"].type is QuantType.Q8_0  # instead of Q6_K
    assert {t.reason for t in report.plan.fallbacks} == {"no fit"}
    assert {t.wanted.name for t in report.plan.fallbacks} == {"Q4_K", "Q6_K"}
    LLM(report.files[0], threads=1).logits([3, 4, 5])


def test_split_in_and_out(bf16: Path, tmp_path: Path) -> None:
    with GGUFFile.open(bf16) as file:
        tensors = {name: TensorData(t.type, t.shape, file.data(name)) for name, t in file.tensors.items()}
        first, *_ = write_split_gguf(tmp_path / "in", file.typed_metadata(), tensors, num_shards=3)
    whole = run(bf16, tmp_path / "whole.gguf").files[0]
    assert run(first, tmp_path / "joined.gguf").files[0].read_bytes() == whole.read_bytes()
    parts = run(first, tmp_path / "out.gguf", max_shard_bytes=600_000)
    assert len(parts.files) > 2
    expected, found = GGUFFile.open(whole), GGUFFile.open(parts.files[0])
    assert all(found.data(name).tobytes() == expected.data(name).tobytes() for name in expected.tensors)
    with pytest.raises(ConfigError, match="is the file that is read"):
        run(first, tmp_path / "in.gguf", max_shard_bytes=600_000)


# --- errors that are told ---


def test_errors_are_those_of_the_file(bf16: Path, tmp_path: Path) -> None:
    report = run(bf16, tmp_path / "out.gguf")
    old, new = GGUFFile.open(bf16), GGUFFile.open(report.files[0])
    for tensor in report.tensors:
        assert tensor.sums is not None
        name = tensor.planned.info.name
        difference = old.array(name).astype(np.float64) - new.array(name)
        if tensor.planned.is_copied:
            assert tensor.sums.num_elements == 0
        else:
            assert tensor.sums.rmse == pytest.approx(np.sqrt(np.square(difference).mean()), rel=1e-6)
            assert tensor.sums.relative_weighted is None


def test_errors_of_large_tensors_are_measured_on_a_sample(
    bf16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = {t.planned.info.name: t.sums for t in run(bf16, tmp_path / "a.gguf").tensors}
    monkeypatch.setattr(stream, "SAMPLE_ELEMENTS", 20_000)
    for tensor in run(bf16, tmp_path / "b.gguf").tensors:
        sums, all_of_it = tensor.sums, exact[tensor.planned.info.name]
        if all_of_it.num_elements > 40_000:
            assert 20_000 <= sums.num_elements <= 45_000
            assert sums.rmse == pytest.approx(all_of_it.rmse, rel=0.03)


# --- importance ---


def random_importance(path: Path) -> ImportanceMatrix:
    random = np.random.default_rng(5)
    squares = {}
    for name, info in GGUFFile.open(path).tensors.items():
        if len(info.shape) > 1:
            num_experts = info.shape[0] if len(info.shape) > 2 else 1
            sums = np.exp(1.5 * random.standard_normal((num_experts, info.shape[-1])))
            squares[name] = InputSquares(sums, np.ones(num_experts, np.int64))
    return ImportanceMatrix(squares, ("random",), 1, 512, path=Path("random.gguf"))


def test_importance_lowers_the_weighted_error_of_every_tensor(bf16: Path, tmp_path: Path) -> None:
    importance = random_importance(bf16)
    plain = run(bf16, tmp_path / "plain.gguf", "Q3_K_S")
    weighed = run(bf16, tmp_path / "weighed.gguf", "Q3_K_S", importance=importance)
    old, without, with_it = (GGUFFile.open(p) for p in (bf16, plain.files[0], weighed.files[0]))
    for tensor in weighed.tensors:
        name = tensor.planned.info.name
        if tensor.planned.is_copied or tensor.planned.type is not QuantType.Q3_K:
            continue
        weights = importance.squares[name].means()[:, None, :]

        def error(file: GGUFFile, name: str = name, weights: np.ndarray = weights) -> float:
            difference = (file.array(name) - old.array(name)).reshape(len(weights), -1, weights.shape[-1])
            return float((np.square(difference, dtype=np.float64) * weights).sum())

        assert error(with_it) < 0.95 * error(without), name
        assert tensor.sums.relative_weighted is not None
    metadata = with_it.metadata
    assert metadata["quantize.imatrix.file"] == "random.gguf"
    assert metadata["quantize.imatrix.entries_count"] == len(importance.squares)


def test_importance_of_another_model_is_refused(bf16: Path, tmp_path: Path) -> None:
    importance = random_importance(bf16)
    importance.squares["blk.0.attn_q.weight"] = InputSquares(np.ones((1, 128)), np.ones(1, np.int64))
    with pytest.raises(ConfigError, match="another model"):
        run(bf16, tmp_path / "out.gguf", importance=importance)


def test_what_the_importance_matrix_lacks_is_named(bf16: Path, tmp_path: Path) -> None:
    importance = random_importance(bf16)
    del importance.squares["blk.1.ffn_up_exps.weight"]
    assert run(bf16, tmp_path / "out.gguf", importance=importance).unweighted == ("blk.1.ffn_up_exps.weight",)


# --- quantised input ---


def test_quantised_input_needs_permission(model_path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--allow-requantize"):
        run(model_path("q8_0"), tmp_path / "out.gguf")
    report = run(model_path("q8_0"), tmp_path / "out.gguf", allow_requantize=True)
    found = {t.planned.info.name: t.planned for t in report.tensors}
    assert found["blk.0.attn_q.weight"].type is QuantType.Q4_K
    assert found["blk.3.nextn.eh_proj.weight"].reason == "smaller already"


def test_what_is_as_small_already_is_copied(model_path, tmp_path: Path) -> None:
    """Without permission, for nothing is lost."""
    report = run(model_path("q4_k"), tmp_path / "out.gguf", "Q8_0")
    assert all(tensor.planned.is_copied for tensor in report.tensors)


# --- refusals ---


def test_output_may_be_a_folder(bf16: Path, published: Path, tmp_path: Path) -> None:
    assert run(published, tmp_path, "Q8_0").files == (tmp_path / "model-Q8_0.gguf",)
    with pytest.raises(ConfigError, match=r"must end in \.gguf"):
        run(bf16, tmp_path / "out.bin")
    with pytest.raises(ConfigError, match="no such folder"):
        run(bf16, tmp_path / "nowhere" / "out.gguf")


def test_the_input_is_never_written_over(bf16: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(bf16, tmp_path / "model.gguf"))
    (tmp_path / "link.gguf").symlink_to(copy)
    for output in (copy, tmp_path / "link.gguf"):
        with pytest.raises(ConfigError, match="is the file that is read"):
            run(copy, output)
    assert copy.read_bytes() == bf16.read_bytes()


@pytest.mark.parametrize(("value", "mix", "kind"), [(np.nan, "Q4_K_M", ModelFormatError), (1e6, "F16", ConfigError)])
def test_numbers_that_cannot_be_are_named(tmp_path: Path, value: float, mix: str, kind: type[Exception]) -> None:
    values = np.ones((4, 256), np.float32)
    values[2, 7] = value
    metadata = {"general.architecture": "step35"}
    write_gguf(tmp_path / "in.gguf", metadata, {"output.weight": values, "token_embd.weight": np.ones((4, 256), "f4")})
    with pytest.raises(kind, match=r"output\.weight.*\(2, 7\)"):
        run(tmp_path / "in.gguf", tmp_path / "out.gguf", mix)
    assert list(tmp_path.iterdir()) == [tmp_path / "in.gguf"]


def test_a_full_disk_is_told_before_and_leaves_nothing(
    bf16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(100, 100, 0)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(CapacityError, match=r"0\.0 GB free"):
            run(bf16, tmp_path / "out.gguf")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CapacityError, match="filled up"):
        run(bf16, tmp_path / "out.gguf")
    assert not list(tmp_path.iterdir())


# --- kills and memory, in processes of their own ---

PRELUDE = """
import os, resource, signal, sys
from pathlib import Path
from stepahead.gguf import GGUFFile
from stepahead.quantize import stream
from stepahead.quantize.mix import find_mix
from stepahead.quantize.plan import Request, make_plan
from stepahead.quantize.quantization import quantize_file
source, out = map(Path, sys.argv[1:3])
file = GGUFFile.open(source)
"""


def process(script: str, *args: object) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", PRELUDE + textwrap.dedent(script), *map(str, args)]
    return subprocess.run(program, capture_output=True, text=True, check=False)


KILLED = """
calls = int(sys.argv[3])
def count(done, total):
    global calls
    calls -= 1
    if calls == 0 or (calls < 0 and done == total):
        os.kill(os.getpid(), signal.SIGKILL)
quantize_file(make_plan(file, Request(find_mix("Q4_0"))), out, threads=1, on_progress=count)
"""


@pytest.mark.parametrize("calls", [1, 40, 0], ids=["at the beginning", "in the middle", "before the end"])
def test_killed_while_writing(bf16: Path, tmp_path: Path, calls: int) -> None:
    out = tmp_path / "out.gguf"
    before = run(bf16, out, "Q8_0").files[0].read_bytes()
    assert process(KILLED, bf16, out, calls).returncode == -signal.SIGKILL
    assert out.read_bytes() == before
    report = run(bf16, out, "Q4_0")
    assert [path.suffix for path in report.left_over] == [".tmp"]
    assert GGUFFile.open(out).metadata["general.file_type"] == 2


MEASURED = """
plan = make_plan(file, Request(find_mix("Q8_0")))
quantize_file(make_plan(GGUFFile.open(Path(sys.argv[3])), Request(find_mix("Q8_0"))), out, threads=2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
quantize_file(plan, out, threads=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_tensor(tmp_path: Path) -> None:
    metadata = {"general.architecture": "step35"}
    sizes = {"small": 1 << 14, "large": 1 << 17}  # rows of 512: 32 MB and 256 MB
    for name, rows in sizes.items():
        piece = np.full((1 << 12, 512), 0.5, np.float32).view(np.uint8)
        data = TensorData(QuantType.F32, (rows, 512), lambda rows=rows, piece=piece: [piece] * (rows >> 12))
        write_gguf(tmp_path / f"{name}.gguf", metadata, {"output.weight": data})
    made = process(MEASURED, tmp_path / "large.gguf", tmp_path / "out.gguf", tmp_path / "small.gguf")
    assert made.returncode == 0, made.stderr
    assert int(made.stdout) < 48 << 10  # KiB: less than a fifth of the tensor
    found = GGUFFile.open(tmp_path / "out.gguf").data("output.weight")[-1:]
    assert np.abs(dequantize(np.ascontiguousarray(found), QuantType.Q8_0) - 0.5).max() < 1e-3
