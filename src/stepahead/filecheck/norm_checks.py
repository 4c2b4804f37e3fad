"""Norms of the heads that lack their 1 or have it twice, with the trunk's norms as the yardstick: the trunk works.

Decided by the fingerprint of norm_values, else by signs. What only looks too large or too small is said to be unclear.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from stepahead.filecheck.finding import Finding, Severity, heads_named
from stepahead.filecheck.layout import Layout
from stepahead.filecheck.norm_values import FEW_NEGATIVE, NormValues
from stepahead.filecheck.repair import Repair, add
from stepahead.gguf.block_name import block_number

Norms = Mapping[str, NormValues]
"""By tensor."""

MANY_KINDS = 3  # of a head that must look too large before it is worth a line
SMALL = 0.5  # of the trunk's smallest; also where a norm without its 1 may be, if others of its head lack theirs
MANY_LACKING = 2  # norms of a head, for its others to follow
SETTLE = "--measure settles it"


def check_norms(layout: Layout) -> Iterator[Finding]:
    """Of the heads, or of the whole file where the trunk has the same fault."""
    norms = norm_values(layout)
    heads = {name: norm for name, norm in norms.items() if block_number(name) in layout.heads}
    trunk = {name: norm for name, norm in norms.items() if name not in heads}
    everywhere = _convention(trunk)
    if everywhere != 1:
        yield _finding("norms", everywhere, [name for name, norm in norms.items() if norm.added != 1], "fault")
        return
    if not heads:
        return
    yield from _certain(layout, heads, trunk)
    if layout.trunk:  # a companion has the last norm alone, which is no yardstick for sizes
        yield from _suspicious(layout, heads, trunk)


def norm_values(layout: Layout) -> dict[str, NormValues]:
    """Every norm of the file."""
    names = [name for name, info in layout.file.tensors.items() if name.endswith("norm.weight") and info.nbytes]
    return {name: NormValues.of(layout.file.array(name)) for name in names}


def _convention(trunk: Norms) -> int:
    """How often 1 was added to the trunk's norms. A trunk of another origin, which never had zero-centred weights, has
    a fingerprint without a 1 but no negative values: it is as it should be."""
    if not trunk:
        return 1
    twice = [norm for norm in trunk.values() if norm.added == 2]
    without = [norm for norm in trunk.values() if norm.lacks_sign]
    if 2 * len(without) > len(trunk):
        return 0
    return 2 if 2 * len(twice) > len(trunk) else 1


def _certain(layout: Layout, heads: Norms, trunk: Norms) -> Iterator[Finding]:
    """The trunk's convention is known to be right here; so is a head's norm that has a 1 where the trunk's has."""
    # Of norms that never were zero-centred the fingerprint says nothing, neither in the trunk nor in the heads.
    trunk_without = any(norm.added == 0 and norm.negative <= FEW_NEGATIVE for norm in trunk.values())
    found: dict[str, int] = {}
    for name, norm in heads.items():
        if norm.added == 2:
            found[name] = 2
        elif norm.lacks_sign or (norm.added == 0 and not trunk_without):
            found[name] = 0
    found |= dict.fromkeys(_followers(heads, [name for name, offset in found.items() if offset == 0]), 0)
    for offset in (0, 2):
        names = [name for name in heads if found.get(name) == offset]
        if names:
            yield _finding(_where(layout, names, heads), offset, names, "fault")


def _followers(heads: Norms, lacking: list[str]) -> list[str]:
    """Norms that say nothing themselves, as small as one without its 1 may be, where others of the same head or the
    same kind lack theirs: a converter forgets a kind of tensor, not one of them."""
    kinds = {_kind(name) for name in lacking}
    blocks = Counter(block_number(name) for name in lacking)
    return [
        name
        for name, norm in heads.items()
        if name not in lacking
        and norm.added is None
        and norm.middle < SMALL
        and (_kind(name) in kinds or blocks[block_number(name)] >= MANY_LACKING)
    ]


def _suspicious(layout: Layout, heads: Norms, trunk: Norms) -> Iterator[Finding]:
    """Where the numbers say nothing for certain: a size that the trunk's norms never have."""
    doubled: list[str] = []
    lacking: list[str] = []
    for block in layout.heads:
        own = {name: norm for name, norm in heads.items() if block_number(name) == block}
        if any(norm.added is not None or norm.lacks_sign for norm in own.values()):
            continue
        pairs = {name: (norm, like) for name, norm in own.items() if (like := _like(name, trunk))}
        large = [name for name, (norm, like) in pairs.items() if norm.low > max(1.0, *(one.high for one in like))]
        small = [name for name, (norm, like) in pairs.items() if norm.middle < SMALL * min(one.middle for one in like)]
        doubled += own if len(large) >= MANY_KINDS else ()
        lacking += small
    for offset, names in ((2, doubled), (0, lacking)):
        if names:
            yield _finding(_where(layout, names, heads), offset, names, "unclear")


def _like(name: str, trunk: Norms) -> list[NormValues]:
    """The trunk's norms of the same kind; of kinds that it has not, all but those of queries and keys."""
    kind = _kind(name)
    if kind == "nextn.shared_head_norm.weight":
        kind = "output_norm.weight"
    same = [norm for other, norm in trunk.items() if other.endswith(kind)]
    return same or [norm for other, norm in trunk.items() if not other.endswith(("_q_norm.weight", "_k_norm.weight"))]


def _where(layout: Layout, names: list[str], heads: Norms) -> str:
    numbers = sorted({layout.number(block_number(name)) for name in names})
    total = sum(layout.number(block_number(name)) in numbers for name in heads)
    kinds = sorted({_kind(name).removesuffix(".weight").removeprefix("nextn.") for name in names})
    which = "norms" if len(names) == total else " and ".join(kinds)
    return f"{which} of {heads_named(numbers)}"


def _kind(name: str) -> str:
    return name.split(".", 2)[2]


def _finding(where: str, offset: int, names: list[str], severity: Severity) -> Finding:
    certain = severity == "fault"
    if offset == 0:
        what = "lack the 1 that converting adds" if certain else "are far smaller than the trunk's: they may lack the 1"
        text, delta = "adds 1", 1.0
    else:
        what = "have 1 added twice" if certain else "are larger than any of the trunk's: 1 may have been added twice"
        text, delta = "takes 1 away", -1.0
    edits = {name: add(delta) for name in names}
    return Finding("norm-offset", severity, where, what, Repair(f"--fix {text}" if certain else SETTLE, tensors=edits))
