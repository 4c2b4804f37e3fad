"""Importance matrices: the sums are those of the matrices' inputs, heads and experts included, and files survive."""

from pathlib import Path

import numpy as np
import pytest

from stepahead.errors import ConfigError, ModelFormatError
from stepahead.gguf import GGUFFile, write_gguf
from stepahead.quantize.collect import Calibration, collect_importance
from stepahead.quantize.importance import ImportanceMatrix, InputSquares

IDS = [*range(3, 43)]
NUM_TRUNK, NUM_HEADS, TOP_K = 3, 3, 2


@pytest.fixture(scope="module")
def collected(f32: Path) -> ImportanceMatrix:
    with GGUFFile.open(f32) as file:
        return collect_importance(file, file, [Calibration("a.txt", IDS)], threads=1)


def rms_norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.square(x).mean(1, keepdims=True) + 1e-5) * weight


def test_inputs_of_the_first_matrices(f32: Path, collected: ImportanceMatrix) -> None:
    file = GGUFFile.open(f32)
    inputs = rms_norm(file.array("token_embd.weight")[IDS].astype(np.float64), file.array("blk.0.attn_norm.weight"))
    for name in ("attn_q", "attn_k", "attn_v", "attn_gate"):
        squares = collected.squares[f"blk.0.{name}.weight"]
        assert squares.counts.tolist() == [len(IDS)]
        np.testing.assert_allclose(squares.sums[0], np.square(inputs).sum(0), rtol=1e-5)
        np.testing.assert_allclose(squares.means()[0], np.square(inputs).mean(0), rtol=1e-5)


def test_embeddings_enter_the_first_half_of_eh_proj(f32: Path, collected: ImportanceMatrix) -> None:
    """Head k begins at token k + 1: the one before it is beside the row that the head before gave."""
    file = GGUFFile.open(f32)
    for head in range(NUM_HEADS):
        prefix = f"blk.{NUM_TRUNK + head}.nextn."
        squares = collected.squares[f"{prefix}eh_proj.weight"]
        embeddings = file.array("token_embd.weight")[IDS[head + 1 :]].astype(np.float64)
        expected = np.square(rms_norm(embeddings, file.array(f"{prefix}enorm.weight"))).sum(0)
        assert squares.counts.tolist() == [len(IDS) - head - 1]
        np.testing.assert_allclose(squares.sums[0, : embeddings.shape[1]], expected, rtol=1e-5)
        assert (squares.sums[0, embeddings.shape[1] :] > 0).all()


def test_every_matrix_but_the_embedding_is_there(f32: Path, collected: ImportanceMatrix) -> None:
    matrices = {name for name, info in GGUFFile.open(f32).tensors.items() if len(info.shape) > 1}
    assert set(collected.squares) == matrices - {"token_embd.weight"}
    for squares in collected.squares.values():
        assert (squares.sums[squares.counts > 0] >= 0).all()


def test_each_expert_has_the_rows_that_chose_it(f32: Path, collected: ImportanceMatrix) -> None:
    file = GGUFFile.open(f32)
    for name in ("gate", "up", "down"):
        squares = collected.squares[f"blk.1.ffn_{name}_exps.weight"]
        assert squares.counts.sum() == TOP_K * len(IDS)
        assert squares.sums.shape == (4, file.tensors[f"blk.1.ffn_{name}_exps.weight"].shape[-1])
    # What enters gate and up enters the router and the shared expert, too, of each row once.
    gate, router = (collected.squares[f"blk.1.{name}.weight"] for name in ("ffn_gate_exps", "ffn_gate_inp"))
    np.testing.assert_allclose(gate.sums.sum(0), TOP_K * router.sums[0], rtol=1e-5)


def test_observing_changes_no_logit(f32: Path, model_path) -> None:
    """The observed pass is the real one: experts one after the other give the bits of the native op."""
    from stepahead import LLM
    from stepahead.quantize import collect

    chunks = []
    original = collect._Chunk.run

    def keep(self: collect._Chunk, ids: np.ndarray) -> None:
        batch = self._batch(ids, 0, is_draft=False, has_logits=True)
        self.backend.begin_step()
        chunks.append(self.backend.download(self.model.forward(batch, self.kv, collect._go_on).logits).copy())
        original(self, ids)

    with pytest.MonkeyPatch.context() as patch, GGUFFile.open(f32) as file:
        patch.setattr(collect._Chunk, "run", keep)
        collect_importance(file, file, [Calibration("a.txt", IDS)], threads=1)
    with LLM(f32, threads=1, kv_type="f16") as llm:
        assert np.array_equal(chunks[0], llm.logits(IDS))


def test_chunks(f32: Path) -> None:
    texts = [Calibration("a.txt", [*range(3, 300)]), Calibration("b.txt", [5] * 10), Calibration("c.txt", [7])]
    with GGUFFile.open(f32) as file:
        made = collect_importance(file, None, texts, chunk_size=64, threads=1)
        assert (made.num_chunks, made.chunk_size) == (6, 64)  # 297 = 4 * 64 + 41, and 10
        assert made.datasets == ("a.txt", "b.txt", "c.txt")
        assert made.squares["blk.0.attn_q.weight"].counts.tolist() == [297 + 10]
        assert not any("nextn" in name for name in made.squares)
        assert collect_importance(file, None, texts, chunk_size=64, max_chunks=2, threads=1).num_chunks == 2
        with pytest.raises(ConfigError, match="no two tokens"):
            collect_importance(file, None, [Calibration("c.txt", [7])], threads=1)
        with pytest.raises(ConfigError, match="more than the context"):
            collect_importance(file, None, texts, chunk_size=5000, threads=1)


def test_a_fused_matrix_is_counted_once(model_path) -> None:
    with GGUFFile.open(model_path("f32", fused_qkv=True)) as file:
        made = collect_importance(file, file, [Calibration("a.txt", IDS)], threads=1)
    assert made.squares["blk.0.attn_qkv.weight"].counts.tolist() == [len(IDS)]


def test_files(collected: ImportanceMatrix, tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    collected.write(path)
    read = ImportanceMatrix.read(path)
    assert set(read.squares) == set(collected.squares)
    assert (read.datasets, read.num_chunks, read.chunk_size) == (("a.txt",), 1, 512)
    for name, squares in collected.squares.items():
        assert read.squares[name].counts.tolist() == squares.counts.tolist()
        np.testing.assert_allclose(read.squares[name].sums, squares.sums, rtol=1e-6)
    file = GGUFFile.open(path)
    assert file.metadata["general.type"] == "imatrix"
    assert file.tensors["blk.1.ffn_up_exps.weight.in_sum2"].shape == (4, 256)
    assert file.tensors["blk.1.ffn_up_exps.weight.counts"].shape == (4, 1)


def test_an_expert_that_nothing_reached_counts_all_columns_alike() -> None:
    squares = InputSquares(np.array([[2.0, 6.0], [0.0, 0.0]]), np.array([2, 0]))
    assert squares.means().tolist() == [[1.0, 3.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x": np.ones(4, np.float32)}, "no importance matrix"),
        ({"x.in_sum2": np.ones((1, 4), np.float32)}, "x.counts is missing"),
        ({"x.in_sum2": np.ones((1, 4), np.float16), "x.counts": np.ones((1, 1), np.float32)}, "F16"),
        ({"x.in_sum2": np.ones((2, 4), np.float32), "x.counts": np.ones((3, 1), np.float32)}, "do not fit"),
        ({"x.in_sum2": -np.ones((1, 4), np.float32), "x.counts": np.ones((1, 1), np.float32)}, "negative"),
        ({"x.in_sum2": np.full((1, 4), np.nan, np.float32), "x.counts": np.ones((1, 1), np.float32)}, "no number"),
        ({"x.in_sum2": np.ones((1, 4), np.float32), "x.counts": np.full((1, 1), np.inf, np.float32)}, "do not fit"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, tensors: dict[str, np.ndarray], message: str) -> None:
    write_gguf(tmp_path / "imatrix.gguf", {"general.type": "imatrix"}, tensors)
    with pytest.raises(ModelFormatError, match=message):
        ImportanceMatrix.read(tmp_path / "imatrix.gguf")
