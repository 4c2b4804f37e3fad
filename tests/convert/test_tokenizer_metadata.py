"""What becomes of a tokenizer: the original's ids, pre-tokenizers by what they do, contradictions refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from convert.conftest import SHAPE
from stepahead.convert.tokenizer_metadata import tokenizer_metadata
from stepahead.errors import ConfigError, ModelFormatError, StepaheadError, UnsupportedModelError
from stepahead.gguf import TypedValue
from stepahead.tokenizer.pre_tokenizer import PRE_TOKENIZERS
from stepahead.tokenizer.tokenizer import Tokenizer
from support.hub_checkpoint import tokenizer_json
from support.random_step35 import MERGES, SPECIAL

FIRST = SHAPE.vocab - len(SPECIAL)  # id of the first special token
TEXTS = [
    "def the(return): 12345 on\r\n\n\n  x",
    "<|im_start|>user\nin the end<|im_end|>",
    "漢字カナ 123abc!?  \t\n .x'll don't",
    "a\u0301b\U0001f600",
]


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., dict]:
    """made(change, settings=…, pre=…, …): the keys, without their types."""

    def make(change: Callable[[dict], object] | None = None, settings: dict | None = None, **wanted: object) -> dict:
        found = tokenizer_json(SHAPE)
        if change is not None:
            change(found)
        (tmp_path / "tokenizer.json").write_text(json.dumps(found))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings or {}))
        keys = {"vocab_size": SHAPE.vocab, "eos_ids": (), "bos_id": None, "pad_id": None, "pre": None, **wanted}
        metadata = tokenizer_metadata(tmp_path, **keys)
        return {key: value.value if isinstance(value, TypedValue) else value for key, value in metadata.items()}

    return make


def pre_tokenizer(*patterns: str, **byte_level: bool) -> dict:
    steps = [{"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False} for p in patterns]
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False, **byte_level}
    return {"type": "Sequence", "pretokenizers": [*steps, last]} if steps else last


def test_ids_are_those_of_the_original(made) -> None:
    # Without fillers: the library takes no ids with holes between them.
    whole = tokenizer_json(replace(SHAPE, vocab=256 + len(MERGES) + len(SPECIAL)))
    original = tokenizers.Tokenizer.from_str(json.dumps(whole))
    ours = Tokenizer.from_metadata(made(lambda found: found.update(whole)))
    for text in TEXTS:
        assert ours.encode(text) == original.encode(text, add_special_tokens=False).ids


def test_merges_as_pairs(made) -> None:
    def as_pairs(found: dict) -> None:
        found["model"]["merges"] = [merge.split(" ") for merge in found["model"]["merges"]]

    assert made(as_pairs) == made()


def set_pre(step: dict, ignore_merges: bool = False) -> Callable[[dict], None]:
    def change(found: dict) -> None:
        found["pre_tokenizer"] = step
        found["model"]["ignore_merges"] = ignore_merges

    return change


LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def test_known_pre_tokenizers(made) -> None:
    assert made()["tokenizer.ggml.pre"] == "deepseek-v3"
    assert made(set_pre(pre_tokenizer(use_regex=True)))["tokenizer.ggml.pre"] == "gpt-2"
    assert made(set_pre(pre_tokenizer(LLAMA), True))["tokenizer.ggml.pre"] == "llama-bpe"
    assert made(set_pre(pre_tokenizer(LLAMA.replace("{1,3}", ""))))["tokenizer.ggml.pre"] == "qwen2"
    for name, known in PRE_TOKENIZERS.items():
        change = set_pre(pre_tokenizer(*known.patterns), known.ignore_merges)
        assert made(change)["tokenizer.ggml.pre"] == {"step35": "deepseek-v3"}.get(name, name)


def split(**changes: object) -> dict:
    found = pre_tokenizer(r"\p{N}")
    found["pretokenizers"][0].update(changes)
    return found


UNKNOWN = {
    "another pattern": (set_pre(pre_tokenizer(r"\p{N}{1,2}")), r"splits by .*\{1,2\}"),
    "llama's without its flag": (set_pre(pre_tokenizer(LLAMA)), "ignore_merges False"),
    "prefix space": (set_pre(pre_tokenizer(use_regex=True, add_prefix_space=True)), "its last step is"),
    "no byte level": (set_pre({"type": "Whitespace"}), "its last step is .*Whitespace"),
    "no steps": (set_pre({"type": "Sequence", "pretokenizers": []}), "it has no steps"),
    "none": (lambda f: f.pop("pre_tokenizer"), "it has no steps: None"),
    "removed": (set_pre(split(behavior="Removed")), "a step is .*Removed"),
    "inverted": (set_pre(split(invert=True)), "a step is .*'invert': True"),
    "a string": (set_pre(split(pattern={"String": " "})), "a step is"),
    "normalised": (lambda f: f.update(normalizer={"type": "NFC"}), "it normalises text first: .*NFC"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_pre_tokenizers_are_refused_unless_named(made, name: str) -> None:
    change, message = UNKNOWN[name]
    with pytest.raises(UnsupportedModelError, match=f"{message}.*say so: --pre NAME"):
        made(change)
    assert made(change, pre="qwen2")["tokenizer.ggml.pre"] == "qwen2"
    with pytest.raises(ConfigError, match="--pre gpt2 is not known; known are deepseek-v3, gpt-2"):
        made(change, pre="gpt2")


def test_types_of_tokens(made) -> None:
    def add(found: dict) -> None:
        found["added_tokens"] += [
            {"id": 300, "content": "<|marked|>", "special": False},
            {"id": 301, "content": "<｜marked｜>"},
            {"id": 302, "content": "<tool_call>", "special": False},
            {"id": 33, "content": "!", "special": False},
        ]

    found = made(add)
    types = dict(zip(found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"], strict=True))
    assert (types["<|marked|>"], types["<｜marked｜>"], types["<tool_call>"], types["<think>"]) == (3, 3, 4, 3)
    assert (types["!"], types['"'], types["[PAD303]"]) == (4, 1, 5)


def test_special_ids(made) -> None:
    ids = lambda found: tuple(found.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "padding"))  # noqa: E731
    assert ids(made()) == (None, None, None)
    # Of several ends the one of a turn, wherever it stands.
    assert ids(made(eos_ids=(FIRST + 1, FIRST + 3, 5), bos_id=FIRST, pad_id=7)) == (FIRST, FIRST + 3, 7)
    assert ids(made(eos_ids=(5, 6))) == (None, 5, None)
    texts = {"bos_token": {"content": SPECIAL[0]}, "eos_token": SPECIAL[1], "pad_token": "not there"}
    assert ids(made(settings=texts)) == (FIRST, FIRST + 1, None)


def test_whether_bos_is_added(made) -> None:
    key = "tokenizer.ggml.add_bos_token"
    template = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}]}
    adds = lambda f: f.update(post_processor=template)  # noqa: E731
    keeps = lambda f: f.update(post_processor={**template, "single": template["single"][1:]})  # noqa: E731
    assert key not in made()
    assert (made(adds)[key], made(keeps)[key]) == (True, False)
    assert (made(adds, {"add_bos_token": False})[key], made(None, {"add_bos_token": True})[key]) == (False, True)


def test_chat_templates(made, tmp_path) -> None:
    key = "tokenizer.chat_template"
    assert key not in made()
    assert made(settings={"chat_template": "one"})[key] == "one"
    named = [{"name": "tools", "template": "two"}, {"name": "default", "template": "three"}]
    assert made(settings={"chat_template": named})[key] == "three"
    (tmp_path / "chat_template.json").write_text('{"chat_template": "four"}')
    assert (made()[key], made(settings={"chat_template": "one"})[key]) == ("four", "one")
    (tmp_path / "chat_template.jinja").write_text("fünf\n", encoding="utf-8")
    assert made(settings={"chat_template": "one"})[key] == "fünf\n"


WRONG = {
    "another model": (lambda f: f["model"].update(type="Unigram"), "a tokenizer of type 'Unigram'; BPE"),
    "no model": (lambda f: f.pop("model"), "a tokenizer of type None"),
    "byte fallback": (lambda f: f["model"].update(byte_fallback=True), "model.byte_fallback is True"),
    "suffix": (lambda f: f["model"].update(end_of_word_suffix="</w>"), "model.end_of_word_suffix is '</w>'"),
    "no vocab": (lambda f: f["model"].update(vocab=[]), "model.vocab is no object"),
    "id too large": (
        lambda f: f["model"]["vocab"].update(x=384),
        "token 'x' has id 384, but the embedding has 384 rows",
    ),
    "negative id": (lambda f: f["model"]["vocab"].update(x=-1), "token 'x' has id -1"),
    "id of text": (lambda f: f["model"]["vocab"].update(x="1"), "token 'x' has id '1'"),
    "shared id": (lambda f: f["model"]["vocab"].update(xx=5), "share id 5"),
    "added without content": (lambda f: f["added_tokens"].append({"id": 300}), "an entry without content"),
    "added twice": (lambda f: f["added_tokens"].append({"id": 300, "content": "<think>"}), "holds '<think>' twice"),
    "a merge of three": (lambda f: f["model"]["merges"].append("a b c"), "merge 'a b c' is not two tokens"),
    "a merge of numbers": (lambda f: f["model"]["merges"].append([1, 2]), r"merge \[1, 2\] is not two tokens"),
    "a merge of nothing": (lambda f: f["model"]["merges"].append("zz zz"), "'zz zz' needs 'zz', not in the vocabulary"),
    "a merge twice": (lambda f: f["model"]["merges"].append("i n"), "holds a pair twice"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tokenizers(made, name: str) -> None:
    change, message = WRONG[name]
    with pytest.raises((ModelFormatError, UnsupportedModelError), match=rf"tokenizer\.json: .*{message}"):
        made(change)


def test_any_value_in_any_place_is_an_error_of_ours_or_fine(made) -> None:
    rng = np.random.default_rng(5)
    values = [None, 0, -1, 1e9, True, "x", [], {}, [1], {"a": 1}, [None], "\ud800"]

    def paths(value: object, at: tuple = ()) -> list[tuple]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return [at, *(path for key, inner in items for path in paths(inner, (*at, key)))]

    every = [path for path in paths(tokenizer_json(SHAPE)) if path and path[:2] != ("model", "vocab")] * 2
    for path in every[:: max(1, len(every) // 300)]:

        def put(found: dict, path: tuple = path) -> None:
            for key in path[:-1]:
                found = found[key]
            found[path[-1]] = values[rng.integers(len(values))]

        try:
            made(put)
        except StepaheadError as error:
            assert "\n" not in str(error)
