"""Pre-tokenizers by the name that GGUF files give them: how text is cut into words before byte-pair merges.

Owns the patterns and what else hangs on the name: whether a word that is whole in the vocabulary skips the merges,
and whether BOS is added when the file is silent. Knows nothing about vocabularies.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tokenizers import Regex, pre_tokenizers

from stepahead.errors import UnsupportedModelError


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One way of cutting text into words.

    `patterns` are applied one after the other, each to the pieces that the one before left.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False

    @classmethod
    def named(cls, name: str) -> "PreTokenizer":
        """The pre-tokenizer that `tokenizer.ggml.pre` names.

        Raises UnsupportedModelError for a name that this version does not know: guessing would give wrong ids.
        """
        found = PRE_TOKENIZERS.get(name)
        if found is None:
            raise UnsupportedModelError(
                f"pre-tokenizer {name!r} is not supported; supported are {', '.join(sorted(PRE_TOKENIZERS))}"
            )
        return found

    def build(self) -> pre_tokenizers.PreTokenizer:
        """The same as an object of the `tokenizers` library, ending in the byte-level mapping."""
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns]
        return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"

_GPT_2 = PreTokenizer((r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",))

# Llama 3 files carry no add_bos_token (their BOS comes from a template of the original tokenizer) but expect one.
_LLAMA_BPE = PreTokenizer(
    (rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}",), ignore_merges=True, add_bos=True
)

_QWEN2 = PreTokenizer((rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}|{_SYMBOLS}|{_SPACES}",))

_DEEPSEEK_V3 = PreTokenizer(
    (
        r"\p{N}{1,3}",
        # Han U+4E00..9FA5, Hiragana U+3040..309F, Katakana U+30A0..30FF
        "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
        r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*"
        rf"|{_SPACES}",
    )
)

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = MappingProxyType(
    {
        "deepseek-v3": _DEEPSEEK_V3,
        "step35": _DEEPSEEK_V3,  # what a few early files say
        "gpt-2": _GPT_2,
        "llama-bpe": _LLAMA_BPE,
        "qwen2": _QWEN2,
    }
)
