"""What a caller says of single tensors: PATTERN=TYPE, the last that matches wins.

PATTERN is a regular expression that is found anywhere in a tensor's name. Must not know: mixes, files.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stepahead.errors import ConfigError
from stepahead.gguf import QuantType


@dataclass(frozen=True, slots=True)
class Override:
    pattern: re.Pattern[str]
    type: QuantType

    @classmethod
    def parse(cls, text: str) -> "Override":
        pattern, equals, name = text.rpartition("=")
        if not equals or not pattern:
            raise ConfigError(f"--tensor {text!r} is not PATTERN=TYPE; give such as 'ffn_down_exps=Q6_K'")
        try:
            return cls(re.compile(pattern), parse_type(name))
        except re.error as error:
            raise ConfigError(
                f"--tensor {text!r}: {pattern!r} is no regular expression ({error}); any part of a name is one, "
                "such as 'ffn_down_exps'"
            ) from None

    def matches(self, name: str) -> bool:
        return self.pattern.search(name) is not None

    def __str__(self) -> str:
        return f"{self.pattern.pattern}={self.type.name}"


def parse_type(name: str) -> QuantType:
    """A tensor type by its name, in any case. Raises ConfigError."""
    try:
        return QuantType[name.strip().upper()]
    except KeyError:
        raise ConfigError(f"there is no tensor type {name!r}; give such as Q8_0, Q6_K, Q4_K or F16") from None


def last_match(overrides: Sequence[Override], name: str) -> QuantType | None:
    return next((override.type for override in reversed(overrides) if override.matches(name)), None)


def check_all_match(overrides: Iterable[Override], names: Sequence[str]) -> None:
    """Raise ConfigError for a pattern that means none of the matrices: a slip of the pen would go unnoticed."""
    for override in overrides:
        if not any(override.matches(name) for name in names):
            raise ConfigError(
                f"--tensor {str(override)!r} matches none of the {len(names)} matrices; names are such as "
                f"{', '.join(names[:2])} (norms, routers and biases stay as they are)"
            )
