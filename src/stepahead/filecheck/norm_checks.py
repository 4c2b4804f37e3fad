"""Norms of the heads that lack their 1 or have it twice, with the trunk's norms as the yardstick: the trunk works.

Decided by the fingerprint of norm_values, else by signs. What only looks too large or too small is said to be unclear.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from stepahead.filecheck.finding import Finding, Severity, heads_named
from stepahead.filecheck.layout import Layout
from stepahead.filecheck.norm_values import FEW_NEGATIVE, NormValues
from stepahead.filecheck.repair import Repair, add
from stepahead.gguf.block_name import block_number

Norms = Mapping[str, NormValues]
"""By tensor."""

MANY_KINDS = 3  # of a head that must look too large before it is worth a line
SMALL = 0.5  # of the trunk's smallest; also where a norm without its 1 may be, if others of its head lack theirs
MOST = 0.6  # share of a head's norms, or of a kind, for those to follow that have no sign of their own
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
    if layout.trunk and _are_all_large(trunk):
        what = "none has a low end below 1: 1 may have been added twice, in the whole file"
        yield Finding("norm-offset", "unclear", "norms", what, Repair(SETTLE))
    if not heads:
        return
    yield from _certain(layout, heads, trunk)
    if layout.trunk:  # a companion has the last norm alone, which is no yardstick for sizes
        yield from _suspicious(layout, heads, trunk)


def norm_values(layout: Layout) -> dict[str, NormValues]:
    """Every norm of the file, but for those with values that are no numbers: they are told of elsewhere."""
    names = [name for name, info in layout.file.tensors.items() if name.endswith("norm.weight") and info.nbytes]
    arrays = ((name, layout.file.array(name)) for name in names)
    return {name: NormValues.of(values) for name, values in arrays if np.isfinite(values).all()}


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


def _are_all_large(trunk: Norms) -> bool:
    """As trained gains seldom are. Of a checkpoint in BF16 the digits would have told."""
    silent = all(norm.added is None and not norm.is_narrow for norm in trunk.values())
    return silent and all(norm.low > 1.0 for norm in trunk.values())


def _certain(layout: Layout, heads: Norms, trunk: Norms) -> Iterator[Finding]:
    """The trunk's convention is known to be right here; so is a head's norm that has a 1 where the trunk's has."""
    # Gains that never were zero-centred are BF16 numbers themselves: only beside sums of 1 do they lack something.
    has_sums = any(norm.added == 1 for norm in (*trunk.values(), *heads.values()))
    trunk_without = any(norm.added == 0 and norm.negative <= FEW_NEGATIVE for norm in trunk.values())
    found: dict[str, int] = {}
    for name, norm in heads.items():
        if norm.added == 2:
            found[name] = 2
        elif norm.lacks_sign or (norm.added == 0 and has_sums and not trunk_without):
            found[name] = 0
    found |= dict.fromkeys(_followers(heads, found, 0), 0)
    found |= dict.fromkeys(_followers(heads, found, 2), 2)
    for offset in (0, 2):
        names = [name for name in heads if found.get(name) == offset]
        if names:
            yield _finding(_where(layout, names, heads), offset, names, "fault")


def _followers(heads: Norms, found: Mapping[str, int], offset: int) -> list[str]:
    """Norms that say too little alone, and could have that offset, where others of the same head or the same kind have
    it: a converter forgets a kind of tensor, not one of them."""
    followers: list[str] = []
    while True:
        same = [*(name for name, other in found.items() if other == offset), *followers]
        new = [
            name
            for name, norm in heads.items()
            if name not in {*found, *followers} and _may_follow(norm, offset, _share_alike(name, same, heads))
        ]
        if not new:
            return followers
        followers += new


def _share_alike(name: str, same: Sequence[str], heads: Norms) -> float:
    """Of the norms of its head that have the offset, or of those of its kind, whichever is more."""
    alike: tuple[Callable[[str], object], ...] = (block_number, _kind)
    return max(sum(by(one) == by(name) for one in same) / sum(by(one) == by(name) for one in heads) for by in alike)


def _may_follow(norm: NormValues, offset: int, share: float) -> bool:
    if norm.added is not None:
        return False
    if offset == 2:
        return share >= MOST and norm.low > 1.0
    has_signs = norm.negative > FEW_NEGATIVE and norm.hopeless <= FEW_NEGATIVE
    return not norm.has_fingerprint and ((share > 0 and has_signs) or (share >= MOST and norm.middle < SMALL))


def _suspicious(layout: Layout, heads: Norms, trunk: Norms) -> Iterator[Finding]:
    """Where the numbers say nothing for certain: sizes and digits that the trunk's norms never have."""
    doubled: list[str] = []
    lacking: list[str] = []
    has_sums = any(norm.added == 1 for norm in trunk.values())
    for block in layout.heads:
        own = {name: norm for name, norm in heads.items() if block_number(name) == block}
        lacking += [name for name, norm in own.items() if has_sums and norm.added is None and norm.is_narrow]
        if any(norm.added is not None or norm.is_narrow or norm.lacks_sign for norm in own.values()):
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
        doubt = "may lack the 1: smaller or with fewer digits than any of the trunk's"
        what = "lack the 1 that converting adds" if certain else doubt
        text, delta = "adds 1", 1.0
    else:
        doubt = "are larger than any of the trunk's: 1 may have been added twice"
        what = "have 1 added twice" if certain else doubt
        text, delta = "takes 1 away", -1.0
    edits = {name: add(delta) for name in names}
    return Finding("norm-offset", severity, where, what, Repair(f"--fix {text}" if certain else SETTLE, tensors=edits))
