"""A shortlist of draft ids: which they are, their rows, the file that keeps them; and never another token of text."""

import logging
from pathlib import Path

import numpy as np
import pytest

from stepahead import LLM, SamplingParams, Speculation
from stepahead.backends.base import OwnMemory
from stepahead.errors import ConfigError
from stepahead.gguf import QuantType, TensorData, dequantize, quantize, write_gguf
from stepahead.models.draft_vocab import CAPACITY, MAX_ADMITTED, DraftVocab, best_size
from stepahead.models.short_output import ShortOutput
from stepahead.repack import requantised
from support.backends import BACKENDS, load
from support.random_step35 import Shape, metadata, model_tensors, quantised, write_model

PROMPT = np.random.default_rng(3).integers(0, 256, 60).tolist()
FIXED = Speculation("mtp", depth=3, adaptive=False)


def vocab_of(llm: LLM) -> DraftVocab:
    vocab = llm.model.draft_vocab
    assert vocab is not None
    return vocab


def rows_of_x(llm: LLM, count: int = 3) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(count, llm.model.hidden_size)).astype(np.float32)


def both_logits(llm: LLM, head: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the shortlist, of the whole matrix for the same ids, and these ids."""
    x = llm.backend.upload(rows_of_x(llm))
    short, ids = vocab_of(llm).logits(head, x)
    whole = llm.backend.download(llm.backend.linear(x, llm.model.heads[head].shared_head_head))
    return llm.backend.download(short), whole[:, ids], ids


# --- text ---
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["f32", "q8_0"])
def test_text_does_not_depend_on_the_shortlist(model_path, name: str, backend: str, monkeypatch) -> None:
    """I3. Fewer drafts are right, and nothing else changes; with a penalty ids are looked at, without they are not."""
    whole = load(model_path(name), backend, monkeypatch, draft_vocab="full")
    short = load(model_path(name), backend, monkeypatch, draft_vocab=64)
    assert whole.model.draft_vocab is None and len(vocab_of(short).ids) == 64
    accepted = {"whole": 0, "short": 0}
    for changes in ({}, {"temperature": 1.0}, {"temperature": 1.0, "repetition_penalty": 1.2, "top_p": 0.9}):
        params = SamplingParams(max_tokens=30, seed=5, ignore_eos=True, **changes)
        plain = whole.generate(PROMPT, params, Speculation("off"))
        for which, llm in (("whole", whole), ("short", short)):
            drafted = llm.generate(PROMPT, params, FIXED)
            assert drafted.token_ids == plain.token_ids
            accepted[which] += drafted.speculation.num_accepted_tokens
    assert 0 < accepted["short"] < accepted["whole"]


def test_draft_logits_are_those_of_the_whole_vocabulary(model_path) -> None:
    path = model_path("q8_0")
    with LLM(path, draft_vocab="full") as whole, LLM(path, draft_vocab=64) as short:
        assert short.draft_logits(PROMPT).tobytes() == whole.draft_logits(PROMPT).tobytes()
        assert short.model.draft_vocab is not None, "it is back afterwards"


def test_a_file_with_a_damaged_row_drafts_all_the_same(tmp_path: Path) -> None:
    shape = quantised(Shape(num_trunk=2, own_head=False), QuantType.Q8_0)
    tensors = dict(model_tensors(shape))
    output = tensors["output.weight"]
    rows = np.array(output.data).reshape(shape.vocab, -1)
    rows[70, :2] = np.array([np.nan], np.float16).view(np.uint8)
    tensors["output.weight"] = TensorData(output.type, (shape.vocab, shape.hidden), rows)
    write_gguf(tmp_path / "model.gguf", metadata(shape), tensors)
    with LLM(tmp_path / "model.gguf", draft_vocab=128) as llm:
        assert len(vocab_of(llm).ids) == 128
        short, whole, ids = both_logits(llm)
        is_sound = ids != 70
        assert short[:, is_sound].tobytes() == whole[:, is_sound].tobytes()


# --- rows ---
def test_rows_of_a_small_type_are_the_files_own(model_path) -> None:
    with LLM(model_path("q4_k"), draft_vocab=64) as llm:
        vocab_of(llm).note(range(200, 230))
        for head in range(3):
            short, whole, ids = both_logits(llm, head)
            assert len(ids) == 64 + len(set(range(200, 230)) - set(ids[:64].tolist()))
            assert short.tobytes() == whole.tobytes()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(("name", "budget"), [("q8_0", 0.12), ("f32", 0.12)])
def test_rows_of_a_large_type_are_nearly_the_files(model_path, name: str, budget: float, backend: str) -> None:
    """Root mean square over that of the logits; Q4_K's and Q4_0's own is some .08."""
    with LLM(model_path(name), draft_vocab=64, device=backend) as llm:
        short, whole, ids = both_logits(llm)
        assert len(ids) == 64 and 0 < np.sqrt(((short - whole) ** 2).mean()) < budget * np.sqrt((whole**2).mean())
        vocab_of(llm).note([300, 301])
        short, whole, ids = both_logits(llm)
        assert set(ids[64:].tolist()) == {300, 301}
        np.testing.assert_allclose(short[:, 64:], whole[:, 64:], rtol=1e-6, atol=1e-6)


def test_heads_with_the_same_matrix_share_its_rows(model_path) -> None:
    with (
        LLM(model_path("f32", own_head=False), draft_vocab=64) as shared,
        LLM(model_path("f32"), draft_vocab=64) as own,
    ):
        assert [len(vocab_of(llm)._outputs) for llm in (shared, own)] == [1, 3]


# --- ids ---
def toy(frequent: list[int], vocab: int = 500, capacity: int = 8, own_memory: OwnMemory | None = None) -> DraftVocab:
    from stepahead.backends.reference.ops import ReferenceBackend

    class Backend(ReferenceBackend):
        pass

    Backend.own_memory = own_memory
    backend = Backend()
    rows = quantize(np.repeat(np.arange(vocab, dtype=np.float32)[:, None], 32, axis=1), QuantType.F32)
    matrix = backend.load_matrix(rows[frequent], QuantType.F32, (len(frequent), 32))
    output = ShortOutput(matrix, rows, QuantType.F32)
    return DraftVocab(backend, np.array(frequent, np.int32), [output], [0], capacity)


def agree(vocab: DraftVocab, num_frequent: int) -> list[int]:
    """The ids seen lately, each of which must have the row of its own column."""
    logits, ids = vocab.logits(0, np.full((1, 32), 1 / 32, np.float32))
    count = np.count_nonzero(ids >= 0)
    assert (ids[count:] == -1).all() and logits.shape == (1, len(ids))
    logits, ids = logits[:, :count], ids[:count]
    assert logits[0].tolist() == ids.tolist() and len(set(ids.tolist())) == len(ids)
    return ids[num_frequent:].tolist()


PLACES = pytest.mark.parametrize("place", [None, OwnMemory("device", None)], ids=["mapped", "copied"])


@PLACES
def test_ids_enter_and_the_least_recently_used_leave(place: OwnMemory | None) -> None:
    vocab = toy([0, 1, 2], own_memory=place)
    assert agree(vocab, 3) == []
    vocab.note([1, 2, 7])
    vocab.note([10, 11])
    assert set(agree(vocab, 3)) == {7, 10, 11}
    vocab.note([20, 21, 22, 23, 24])  # full
    vocab.note([7])
    vocab.note([30, 7, 0])
    assert set(agree(vocab, 3)) - {10, 11} == {7, 20, 21, 22, 23, 24, 30} and len(agree(vocab, 3)) == 8
    vocab.note([31])
    assert set(agree(vocab, 3)) == {7, 20, 21, 22, 23, 24, 30, 31}
    vocab.note([])
    vocab.note([11])  # back again
    assert 11 in agree(vocab, 3)


@PLACES
def test_a_long_prompt_enters_bit_by_bit_its_end_first(monkeypatch, place: OwnMemory | None) -> None:
    monkeypatch.setattr("stepahead.models.draft_vocab.MAX_ADMITTED", 4)
    vocab = toy([0], capacity=10, own_memory=place)
    vocab.note([*range(100, 150), 149, 148])
    assert set(agree(vocab, 1)) == {149, 148, 147, 146}
    vocab.note([0])
    vocab.note([0])
    assert set(agree(vocab, 1)) == set(range(140, 150))
    for _ in range(5):
        vocab.note([0])
    assert set(agree(vocab, 1)) == set(range(140, 150)), "what was pushed out does not come back by itself"


@PLACES
def test_a_vocabulary_that_is_nearly_all_frequent(place: OwnMemory | None) -> None:
    vocab = toy(list(range(498)), own_memory=place)
    vocab.note([499, 3])
    assert agree(vocab, 498) == [499]
    everything = toy(list(range(500)), own_memory=place)
    everything.note([3, 499])
    assert agree(everything, 500) == []


def test_prompt_and_output_are_noted(model_path) -> None:
    with LLM(model_path("f32"), draft_vocab=16) as llm:
        completion = llm.generate(PROMPT, SamplingParams(max_tokens=40, ignore_eos=True), FIXED)
        assert set(PROMPT) | set(completion.token_ids[:-1]) <= set(vocab_of(llm).ids.tolist())
    with LLM(model_path("f32"), draft_vocab=16) as llm:
        llm.generate(PROMPT, SamplingParams(max_tokens=4, ignore_eos=True), Speculation("off"))
        assert len(vocab_of(llm).ids) == 16, "who never drafts leaves no ids"


def test_frequent_ids_begin_with_ends_and_follow_the_merges(model_path) -> None:
    with LLM(model_path("f32")) as llm:
        tokenizer = llm.tokenizer
        few = tokenizer.frequent_ids(3)
        assert set(few) >= set(tokenizer.end_ids) and len(few) == 3
        more = tokenizer.frequent_ids(268)
        assert set(range(256)) < set(more) and tokenizer.id_of("Ġt") in more
        assert sorted(tokenizer.frequent_ids(10_000)) == list(range(tokenizer.vocab_size))


# --- size ---
def test_the_demo_model_needs_no_shortlist() -> None:
    with LLM.demo() as llm:
        assert llm.model.draft_vocab is None


@pytest.mark.parametrize(("step_gigabytes", "size"), [(0.3, 4096), (2.6, 16384), (7.3, 32768), (12.0, 65536)], ids=str)
def test_the_larger_the_step_the_larger_the_shortlist(step_gigabytes: float, size: int) -> None:
    assert best_size(128_896, 3360, 2304, int(step_gigabytes * 1e9)) == size


def test_a_cheap_output_matrix_stays_whole() -> None:
    assert best_size(128_896, 3360, 2304, 10**14) is None
    assert best_size(8000, 3360, 2304, 10**9) is None
    assert CAPACITY < 8192


@pytest.mark.parametrize("value", ["half", 0, -5, 2.5, True, None, ""])
def test_wrong_sizes_are_refused_by_name(model_path, value: object) -> None:
    with pytest.raises(ConfigError, match="draft_vocab="):
        LLM(model_path("f32"), draft_vocab=value)


def test_a_size_beyond_the_vocabulary_is_all_of_it(model_path) -> None:
    with LLM(model_path("f32"), draft_vocab=10**6) as llm:
        assert llm.model.draft_vocab is None


# --- the file ---
@pytest.fixture
def model(tmp_path: Path, monkeypatch) -> Path:
    """A model whose rows are worth a file."""
    monkeypatch.setattr(requantised, "QUICK_ELEMENTS", 0)
    monkeypatch.setattr("stepahead.repack.shortlist.QUICK_ELEMENTS", 0)
    (tmp_path / "models").mkdir()
    return write_model(tmp_path / "models" / "model.gguf", quantised(Shape(num_trunk=2), QuantType.Q8_0))


def short_bits(path: Path, repack: str = "auto", size: int = 64) -> bytes:
    with LLM(path, draft_vocab=size, repack=repack) as llm:
        return b"".join(both_logits(llm, head)[0].tobytes() for head in range(3))


def cache_of(model: Path) -> Path:
    return model.with_name("model.gguf.shortlist")


def test_rows_are_kept_in_a_file_and_mapped(model: Path, monkeypatch) -> None:
    first = short_bits(model)
    before = cache_of(model).stat()
    monkeypatch.setattr(requantised, "quantize", lambda *_: pytest.fail("made again"))
    assert short_bits(model) == first and cache_of(model).stat().st_mtime_ns == before.st_mtime_ns


def test_another_size_is_another_file(model: Path) -> None:
    first = short_bits(model)
    assert short_bits(model, size=80) != first
    assert short_bits(model) == first


@pytest.mark.parametrize("damage", ["short", "magic", "index"])
def test_a_damaged_file_is_made_again(model: Path, damage: str) -> None:
    first = short_bits(model)
    whole = cache_of(model).read_bytes()
    bad = {"short": whole[:-4096], "magic": b"NO" + whole[2:], "index": whole[:20] + b"\xff" * 30 + whole[50:]}[damage]
    cache_of(model).write_bytes(bad)
    assert short_bits(model) == first
    assert cache_of(model).read_bytes() == whole


def test_never_means_the_files_own_rows_and_no_file(model: Path) -> None:
    with LLM(model, draft_vocab=64, repack="never") as llm:
        short, whole, _ = both_logits(llm)
        assert short.tobytes() == whole.tobytes()
    assert [path.name for path in model.parent.iterdir()] == ["model.gguf"]


def test_without_a_place_to_write_the_files_own_rows_do(model: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr("stepahead.repack.repacked.is_writable", lambda folder: False)
    with caplog.at_level(logging.INFO, "stepahead"), LLM(model, draft_vocab=64) as llm:
        short, whole, _ = both_logits(llm)
        assert short.tobytes() == whole.tobytes()
    assert "used as they are" in caplog.text


def test_a_folder_of_choice(model: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    assert short_bits(model, str(tmp_path / "kept")) == short_bits(model)
    assert len(list((tmp_path / "kept").glob("model-*.shortlist"))) == 1


def test_rows_in_the_file_are_those_of_the_quantiser(model: Path) -> None:
    with LLM(model, draft_vocab=64, repack="auto", device="reference") as llm:
        head = llm.model.heads[0].shared_head_head
        ids = vocab_of(llm).ids
        wanted = quantize(dequantize(head.data, head.type)[ids], QuantType.Q4_K)
        assert vocab_of(llm)._outputs[0].frequent.data.tobytes() == wanted.tobytes()


def test_where_rows_are_copied_nothing_moves_but_what_enters(monkeypatch) -> None:
    """A recorded pass finds ids and rows where they were."""
    vocab = toy([0, 1, 2], capacity=300, own_memory=OwnMemory("device", None))
    ids, matrix, backend = vocab.ids, vocab._rows.matrix(0), vocab._backend
    written, write = [], backend.write_rows
    monkeypatch.setattr(backend, "write_rows", lambda *args: (written.append(len(args[1])), write(*args)))
    monkeypatch.setattr(backend, "load_matrix", lambda *_: pytest.fail("all rows were copied"))
    for noted in ([7], [7, 0], range(100, 100 + MAX_ADMITTED + 40), []):
        vocab.note(noted)
    assert set(agree(vocab, 3)) == {7, *range(100, 100 + MAX_ADMITTED + 40)}
    assert written == [1, MAX_ADMITTED, 40]
    assert vocab.ids is ids and vocab._rows.matrix(0) is matrix
