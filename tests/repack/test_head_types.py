"""The heads' matrices in a smaller type: which of them, where they are kept, and never another token of text."""

from pathlib import Path

import numpy as np
import pytest

from stepahead import LLM, SamplingParams, Speculation
from stepahead.backends.reference.ops import ReferenceBackend
from stepahead.config import DRAFT_TYPES
from stepahead.errors import ConfigError
from stepahead.gguf import GGUFFile, QuantType, dequantize, quantize
from stepahead.repack import requantised
from stepahead.repack.head_types import head_matrices
from support.random_step35 import Shape, quantised, write_model

PROMPT = np.random.default_rng(3).integers(0, 256, 40).tolist()
SHAPE = quantised(Shape(num_trunk=2), QuantType.Q8_0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "model.gguf", SHAPE)


def texts(llm: LLM) -> tuple[list[int], int]:
    params = SamplingParams(max_tokens=30, temperature=0.7, seed=2, ignore_eos=True)
    drafted = llm.generate(PROMPT, params, Speculation("mtp", depth=3, adaptive=False))
    return drafted.token_ids, drafted.speculation.num_accepted_tokens


@pytest.mark.parametrize("type", DRAFT_TYPES[1:])
@pytest.mark.parametrize("model", ["f32", "q8_0"])
def test_the_text_stays_and_drafts_are_nearly_as_good(model_path, model: str, type: str) -> None:
    with LLM(model_path(model)) as plain, LLM(model_path(model), draft_type=type) as small:
        assert small.logits(PROMPT).tobytes() == plain.logits(PROMPT).tobytes()
        (wanted, num_plain), (found, num_small) = texts(plain), texts(small)
        assert found == wanted and num_small > num_plain // 2
        head = small.model.heads[0]
        is_smaller = QuantType[type].row_bytes(256) < plain.model.heads[0].block.ffn.gate.type.row_bytes(256)
        fits = small.model.hidden_size % QuantType[type].block_size == 0
        if is_smaller and fits:
            assert head.block.ffn.gate.type is head.block.attention.attn_q.type is QuantType[type]
        assert head.eh_proj.type is (QuantType.Q8_0 if model == "f32" else plain.model.heads[0].eh_proj.type)
        assert small.model.blk[1].attention.attn_q.type is plain.model.blk[1].attention.attn_q.type
        assert head.shared_head_head.type is plain.model.heads[0].shared_head_head.type


def test_matrices_are_those_of_the_quantiser(path: Path) -> None:
    with GGUFFile.open(path) as file:
        made = head_matrices(file, QuantType.Q4_K, ReferenceBackend(), None, lambda *_: None)
        names = {name.split(".", 2)[2] for name in made}
        assert names == {f"attn_{x}.weight" for x in ("q", "k", "v", "output")} | {
            f"ffn_{x}.weight" for x in ("gate", "up", "down")
        }
        data, layout, type = made["blk.3.ffn_down.weight"]
        assert (layout, type) == ("plain", QuantType.Q4_K)
        assert data.tobytes() == quantize(file.array("blk.3.ffn_down.weight"), QuantType.Q4_K).tobytes()
        assert not np.array_equal(dequantize(data, type), file.array("blk.3.ffn_down.weight"))


def test_a_type_that_is_not_smaller_changes_nothing(model_path) -> None:
    path = model_path("q4_k")
    with LLM(path) as plain, LLM(path, draft_type="Q8_0") as same:
        assert same.draft_logits(PROMPT).tobytes() == plain.draft_logits(PROMPT).tobytes()


def test_fused_projections_are_cut_as_before(tmp_path: Path) -> None:
    shape = quantised(Shape(num_trunk=2, fused_qkv=True), QuantType.Q8_0)
    with LLM(write_model(tmp_path / "model.gguf", shape), draft_type="Q4_K") as llm:
        attention = llm.model.heads[0].block.attention
        assert attention.attn_q.type is attention.attn_v.type is QuantType.Q4_K
        texts(llm)


def test_a_companion_has_its_own(tmp_path: Path) -> None:
    trunk, heads = (write_model(tmp_path / f"{part}.gguf", SHAPE, part) for part in ("trunk", "heads"))
    with LLM(trunk, mtp=heads, draft_type="Q4_K") as llm:
        assert llm.model.heads[2].block.ffn.down.type is QuantType.Q4_K
    with LLM(trunk, mtp="off", draft_type="Q4_K") as llm:
        assert llm.model.draft is None


def test_they_are_kept_in_a_file_and_mapped(path: Path, monkeypatch) -> None:
    monkeypatch.setattr(requantised, "QUICK_ELEMENTS", 0)
    kept = path.with_name("model.gguf.heads")
    with LLM(path, draft_type="Q4_0", repack="never") as llm:
        in_memory = llm.draft_logits(PROMPT)
    assert not kept.exists()
    with LLM(path, draft_type="Q4_0") as llm:
        assert llm.draft_logits(PROMPT).tobytes() == in_memory.tobytes()
    whole = kept.read_bytes()
    monkeypatch.setattr(requantised, "quantize", lambda *_: pytest.fail("made again"))
    with LLM(path, draft_type="Q4_0") as llm:
        assert llm.draft_logits(PROMPT).tobytes() == in_memory.tobytes()
    monkeypatch.undo()
    monkeypatch.setattr(requantised, "QUICK_ELEMENTS", 0)
    kept.write_bytes(whole[:-8192])
    with LLM(path, draft_type="Q4_0") as llm:
        assert llm.draft_logits(PROMPT).tobytes() == in_memory.tobytes()
    assert kept.read_bytes() == whole


@pytest.mark.parametrize("value", ["Q3_K", "q8_0", "IQ4_XS", "", None, 8])
def test_other_types_are_refused_by_name(path: Path, value: object) -> None:
    with pytest.raises(ConfigError, match="draft_type="):
        LLM(path, draft_type=value)
