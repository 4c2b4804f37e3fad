"""How much of a text a shortlist of draft ids holds, at real vocabulary size: python -m benchmarks.shortlist.

For development: the vocabulary, of 131,072 ids, is the one that the package `mistral-common` brings along; texts are
those of this machine's Python and its packages. Each file is a text of its own. A token counts as held if its id is
among the most frequent by merge rank, or among the ids that its text showed before, the least recently used dropped.
"""

import argparse
import importlib.util
import sys
import sysconfig
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stepahead.models.draft_vocab import CAPACITY

PACKAGE = "mistral_common"
SIZES = (4096, 8192, 16384, 32768, 65536)
FIRST = 256  # tokens of a text that count as its prompt, and are not looked up
LONGEST = 4096  # tokens of a text: more of one would let it stand for its kind

# Article 1 of the Universal Declaration of Human Rights, as the United Nations publish it.
OTHER_LANGUAGES = """
Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und sollen
einander im Geiste der Brüderlichkeit begegnen.
Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de conscience et
doivent agir les uns envers les autres dans un esprit de fraternité.
Todos los seres humanos nacen libres e iguales en dignidad y derechos y, dotados como están de razón y conciencia,
deben comportarse fraternalmente los unos con los otros.
Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и должны
поступать в отношении друг друга в духе братства.
人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。
すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。
"""


@dataclass(slots=True)
class Tally:
    """What was held of one kind of text, by size: by rank alone, with the ids of the text, with those of others too."""

    num_tokens: int = 0
    held: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((3, len(SIZES)), np.int64))

    def count(self, ranks: Sequence[int], first: int, kept: Sequence["Seen"]) -> None:
        """`ranks` of a text's tokens; those from `first` on are looked up."""
        seen = [Seen(CAPACITY) for _ in SIZES]
        for number, rank in enumerate(ranks):
            for column, size in enumerate(SIZES):
                is_frequent = rank < size
                in_text, in_any = (is_frequent or ids.has(rank) for ids in (seen[column], kept[column]))
                if number >= first:
                    self.held[:, column] += (is_frequent, in_text, in_any)
            self.num_tokens += number >= first


class Seen:
    """The ids seen last, as many as there is room for."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._ranks: OrderedDict[int, None] = OrderedDict()

    def has(self, rank: int) -> bool:
        """Whether it was seen before; now it is."""
        is_known = rank in self._ranks
        self._ranks[rank] = None
        self._ranks.move_to_end(rank)
        if len(self._ranks) > self._capacity:
            self._ranks.popitem(last=False)
        return is_known


def texts(folder: Path, patterns: Sequence[str], limit: int) -> Iterator[str]:
    """Files of these names, spread over the folder, until there are `limit` characters."""
    paths = sorted(path for pattern in patterns for path in folder.rglob(pattern))
    np.random.default_rng(5).shuffle(paths)  # type: ignore[arg-type]
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        limit -= len(text[: 4 * LONGEST])
        yield text[: 8 * LONGEST]
        if limit < 0:
            return


def tally(kinds: dict[str, tuple[list[list[int]], int]]) -> dict[str, Tally]:
    """Texts of all kinds in turn, as a server may get them."""
    tallies = {kind: Tally() for kind in kinds}
    kept = [Seen(CAPACITY) for _ in SIZES]
    order = [(kind, ranks, first) for kind, (found, first) in kinds.items() for ranks in found if len(ranks) > first]
    for number in np.random.default_rng(1).permutation(len(order)):
        kind, ranks, first = order[number]
        tallies[kind].count(ranks, first, kept)
    return tallies


def load_ranks() -> Any:
    """A function from text to merge ranks."""
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer  # noqa: PLC0415

    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None
    path = sorted((Path(spec.origin).parent / "data").glob("tekken_*.json"))[-1]
    tokenizer = Tekkenizer.from_file(path)
    specials = tokenizer.num_special_tokens
    return lambda text: [token - specials for token in tokenizer.encode(text, bos=False, eos=False)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shortlist", description=__doc__)
    parser.add_argument("--characters", type=int, default=1_500_000, help="of each kind of text")
    options = parser.parse_args()
    if importlib.util.find_spec(PACKAGE) is None:
        sys.stderr.write("nothing measured: `pip install mistral-common` brings the vocabulary\n")
        return 0
    ranks_of = load_ranks()
    library, packages = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    kinds = {
        "Python": (texts(library, ["*.py"], options.characters), FIRST),
        "C++ headers": (texts(packages, ["*.h", "*.hpp"], options.characters), FIRST),
        "English": (texts(packages, ["*.md", "*.rst", "LICENSE*", "METADATA"], options.characters), FIRST),
        "JSON": (texts(packages, ["*.json"], options.characters), FIRST),
        "6 languages": (iter([OTHER_LANGUAGES]), 0),
    }
    ranked = {kind: ([ranks_of(text)[:LONGEST] for text in found], first) for kind, (found, first) in kinds.items()}
    head = f"{'':14}{'tokens':>8}" + "".join(f"{f'{size // 1024}k':>20}" for size in SIZES)
    sys.stdout.write(f"held, by rank / with {CAPACITY} ids seen in the text / in this and earlier texts\n{head}\n")
    for kind, found in tally(ranked).items():
        shares = (100 * found.held / max(found.num_tokens, 1)).T
        cells = "".join(f"{' / '.join(f'{share:.1f}' for share in column):>20}" for column in shares)
        sys.stdout.write(f"{kind:14}{found.num_tokens:8}{cells}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
