"""The tokenizer's metadata, from tokenizer.json and tokenizer_config.json.

A pre-tokenizer is recognised by what it does, not by a name: its patterns and the flags of its byte-level step. Must
not know: the architecture.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stepahead.convert.json_file import read_bytes, read_object
from stepahead.convert.weight_file import clip
from stepahead.errors import ConfigError, ModelFormatError, UnsupportedModelError
from stepahead.gguf import TypedValue, ValueType
from stepahead.tokenizer.pre_tokenizer import PRE_TOKENIZERS, PreTokenizer
from stepahead.tokenizer.vocabulary import (
    ADD_BOS_KEY,
    CHAT_TEMPLATE_KEY,
    MERGES_KEY,
    MODEL_KEY,
    PRE_KEY,
    TOKENS_KEY,
    TYPES_KEY,
    TokenType,
    Vocabulary,
)

MAX_JSON_BYTES = 256 << 20
MAX_TEMPLATE_BYTES = 4 << 20
TURN_END = "<|im_end|>"
# Marks by which a token is one that text cannot make, whether or not tokenizer.json calls it special.
_CONTROL_MARKS = (("<|", "|>"), ("<｜", "｜>"))


def tokenizer_metadata(
    folder: Path, vocab_size: int, eos_ids: Sequence[int], bos_id: int | None, pad_id: int | None, pre: str | None
) -> dict[str, Any]:
    """The `tokenizer.*` keys, for as many tokens as the embedding has rows.

    pre: the pre-tokenizer's name where it is not recognised. ModelFormatError: contradictions;
    UnsupportedModelError: another kind of tokenizer; ConfigError: `pre` is no name.
    """
    path = folder / "tokenizer.json"
    found = read_object(path, MAX_JSON_BYTES)
    settings_path = folder / "tokenizer_config.json"
    settings = read_object(settings_path, MAX_JSON_BYTES) if settings_path.exists() else {}
    model = _bpe(path, found)
    tokens, types = _tokens(path, found, model, vocab_size)
    ids = {text: token_id for token_id, text in enumerate(tokens)}
    special = {
        "bos": bos_id if bos_id is not None else _id_of(settings, "bos_token", ids),
        "eos": _eos_id(eos_ids, ids, settings),
        "padding": pad_id if pad_id is not None else _id_of(settings, "pad_token", ids),
    }
    metadata: dict[str, Any] = {
        MODEL_KEY: "gpt2",
        PRE_KEY: _pre_name(path, found, model, pre),
        TOKENS_KEY: tokens,
        TYPES_KEY: TypedValue(ValueType.I32, types),
        MERGES_KEY: TypedValue(ValueType.STRING, _merges(path, model)),
        **{f"tokenizer.ggml.{name}_token_id": token_id for name, token_id in special.items() if token_id is not None},
    }
    adds_bos = _adds_bos(found, settings)
    if adds_bos is not None:
        metadata[ADD_BOS_KEY] = adds_bos
    template = _chat_template(folder, settings)
    if template is not None:
        metadata[CHAT_TEMPLATE_KEY] = template
    try:
        Vocabulary.from_metadata({key: getattr(value, "value", value) for key, value in metadata.items()})
    except ModelFormatError as error:
        raise ModelFormatError(f"{path}: {error}") from None
    return metadata


def _bpe(path: Path, found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The model of byte-level BPE, with nothing that GGUF has no word for."""
    model = found.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else model
        raise UnsupportedModelError(f"{path}: a tokenizer of type {clip(kind)}; BPE is converted")
    for key in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise UnsupportedModelError(f"{path}: model.{key} is {clip(model[key])}, which a GGUF file cannot say")
    return model


def _tokens(
    path: Path, found: Mapping[str, Any], model: Mapping[str, Any], vocab_size: int
) -> tuple[list[str], list[int]]:
    """Texts and types; ids that nobody has become fillers."""
    texts: dict[int, str] = {}
    types: dict[int, int] = {}
    vocab, added = model.get("vocab"), found.get("added_tokens") or []
    if not isinstance(vocab, dict) or not isinstance(added, list):
        raise ModelFormatError(f"{path}: model.vocab is no object, or added_tokens no list")
    for text, token_id in vocab.items():
        _put(path, texts, token_id, text, vocab_size)
        types[token_id] = TokenType.NORMAL
    for entry in added:
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise ModelFormatError(f"{path}: added_tokens has an entry without content: {clip(entry)}")
        text, token_id = entry["content"], entry.get("id", -1)
        _put(path, texts, token_id, text, vocab_size)
        is_control = entry.get("special") is True or any(
            text.startswith(start) and text.endswith(end) for start, end in _CONTROL_MARKS
        )
        types[token_id] = TokenType.CONTROL if is_control else TokenType.USER_DEFINED
    for token_id in range(vocab_size):
        if token_id not in texts:
            texts[token_id], types[token_id] = f"[PAD{token_id}]", TokenType.UNUSED
    return [texts[i] for i in range(vocab_size)], [int(types[i]) for i in range(vocab_size)]


def _put(path: Path, texts: dict[int, str], token_id: Any, text: str, vocab_size: int) -> None:
    if type(token_id) is not int or not 0 <= token_id < vocab_size:
        raise ModelFormatError(
            f"{path}: token {clip(text)} has id {clip(token_id)}, but the embedding has {vocab_size} rows"
        )
    if texts.setdefault(token_id, text) != text:
        raise ModelFormatError(f"{path}: tokens {clip(texts[token_id])} and {clip(text)} share id {token_id}")


def _merges(path: Path, model: Mapping[str, Any]) -> list[str]:
    """As "left right", whether they are given as one string or as two."""
    merges = []
    listed = model.get("merges") or []
    if not isinstance(listed, list):
        raise ModelFormatError(f"{path}: model.merges is no list")
    for merge in listed:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise ModelFormatError(f"{path}: merge {clip(merge)} is not two tokens")
        merges.append(" ".join(parts))
    return merges


def _pre_name(path: Path, found: Mapping[str, Any], model: Mapping[str, Any], wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in PRE_TOKENIZERS:
            raise ConfigError(f"--pre {wanted} is not known; known are {', '.join(sorted(PRE_TOKENIZERS))}")
        return wanted
    reason, patterns = _patterns(found)
    patterns = _canonical(patterns)
    ignores_merges = model.get("ignore_merges") is True
    for name, known in PRE_TOKENIZERS.items():
        if reason is None and (_canonical(known.patterns), known.ignore_merges) == (patterns, ignores_merges):
            return name
    raise UnsupportedModelError(
        f"{path}: its pre-tokenizer is not one of {', '.join(sorted(PRE_TOKENIZERS))}: "
        f"{reason or f'splits by {clip(patterns)}, ignore_merges {ignores_merges}'}; "
        "if you know that it cuts text as one of them does, say so: --pre NAME"
    )


def _canonical(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Patterns that mean the same in one spelling: published ones have line ends as they are, and quotes unescaped."""
    return tuple(p.replace("\r", r"\r").replace("\n", r"\n").replace('\\"', '"') for p in patterns)


def _patterns(found: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    """What splits text before the byte-level step, in order; or why that cannot be said by patterns alone."""
    normalizer = found.get("normalizer")
    if isinstance(normalizer, dict) and not (
        normalizer.get("type") == "Sequence" and not normalizer.get("normalizers")
    ):
        return f"it normalises text first: {clip(normalizer)}", ()
    top = found.get("pre_tokenizer")
    steps = top.get("pretokenizers") if isinstance(top, dict) and top.get("type") == "Sequence" else [top]
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        return f"it has no steps: {clip(top)}", ()
    *splits, last = steps
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space") is not False:
        return f"its last step is {clip(last)}", ()
    patterns = []
    for split in splits:
        pattern = split.get("pattern")
        regex = pattern.get("Regex") if isinstance(pattern, dict) else None
        is_plain = split.get("type") == "Split" and split.get("behavior") == "Isolated" and not split.get("invert")
        if not is_plain or not isinstance(regex, str):
            return f"a step is {clip(split)}", ()
        patterns.append(regex)
    if last.get("use_regex", True):
        patterns += PreTokenizer.named("gpt-2").patterns
    return None, tuple(patterns)


def _eos_id(eos_ids: Sequence[int], ids: Mapping[str, int], settings: Mapping[str, Any]) -> int | None:
    """A file names one: the end of a turn if it is among them, else the first."""
    if ids.get(TURN_END) in eos_ids:
        return ids[TURN_END]
    return eos_ids[0] if eos_ids else _id_of(settings, "eos_token", ids)


def _id_of(settings: Mapping[str, Any], key: str, ids: Mapping[str, int]) -> int | None:
    value = settings.get(key)
    text = value.get("content") if isinstance(value, dict) else value
    return ids.get(text) if isinstance(text, str) else None


def _adds_bos(found: Mapping[str, Any], settings: Mapping[str, Any]) -> bool | None:
    """By the tokenizer's own settings, else by whether its last step puts anything in front of a text; None: unsaid."""
    stated = settings.get("add_bos_token")
    if isinstance(stated, bool):
        return stated
    last = found.get("post_processor")
    single = last.get("single") if isinstance(last, dict) and last.get("type") == "TemplateProcessing" else None
    if not isinstance(single, list) or not single:
        return None
    return isinstance(single[0], dict) and "SpecialToken" in single[0]


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return read_bytes(path, MAX_TEMPLATE_BYTES).decode()
        except UnicodeDecodeError as error:
            raise ModelFormatError(f"{path}: is not UTF-8: {error}") from None
    template = settings.get("chat_template")
    if template is None and (folder / "chat_template.json").exists():
        template = read_object(folder / "chat_template.json", MAX_TEMPLATE_BYTES).get("chat_template")
    if isinstance(template, list):  # several with names
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
