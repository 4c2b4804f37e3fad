"""How many broken files are found, how many good ones accused: python -m benchmarks.filecheck [--measure].

Good files are the demo model in every mix of types and random models of many sizes and kinds of norms; each is broken
in every way. What headers and samples say of them is counted, with --measure what drafts of the demo's files say.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.filecheck.altered import differing, have_equal_pairs
from benchmarks.filecheck.faults import Fault, in_drafts, in_headers
from benchmarks.filecheck.good import NEVER_CENTRED, ORIGINS, Good, demo_in_every_mix, parts, random_models
from stepahead.backends.cpu.ops import CpuBackend
from stepahead.filecheck.checked import Checked
from stepahead.filecheck.examine import examine
from stepahead.filecheck.finding import Finding
from stepahead.gguf import GGUFFile
from stepahead.quantize.mix import MIXES

OUTCOMES = ("found", "repaired in part", "unclear", "missed", "misnamed", "wrong repair")
MEASURED = ("Q8_0", "Q4_K_M", "IQ4_XS", "MXFP4", "Q2_K")  # a mix takes minutes
OF_FULL_FILES = ("no heads", "one of three heads")
OF_TRUNKS = ("rope_freqs of early converters", "norms of the whole file")


@dataclass
class Tally:
    """faults: of a fault and an origin, how often each outcome. accused: good files with findings."""

    faults: dict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    num_good: Counter[str] = field(default_factory=Counter)
    accused: list[tuple[str, str, str]] = field(default_factory=list)
    odd: list[tuple[str, str, str, str]] = field(default_factory=list)

    def add_good(self, good: Good, findings: Sequence[Finding]) -> None:
        self.num_good[good.part] += 1
        said = [f"{one.severity}: {one.sentence}" for one in findings if one.severity != "note"]
        self.accused += [(good.name, good.part, one) for one in said]

    def add(self, good: Good, fault: Fault, result: str) -> None:
        self.faults[fault.name, good.origin][result] += 1
        if result != "found":
            self.odd.append((fault.name, good.name, good.part, result))


def outcome(fault: Fault, good: Good, broken: GGUFFile, findings: Sequence[Finding], repaired: GGUFFile) -> str:
    """What was said of a broken file, and whether what would be written is the good one."""
    named = {one.severity for one in findings if one.kind in fault.kinds}
    strange = [one for one in findings if one.severity == "fault" and one.kind not in fault.kinds]
    changed = set(differing(repaired, broken))
    left = set(differing(repaired, good.file, good.rounding))
    if changed and (changed & left or not fault.is_repairable):
        return "wrong repair"
    if strange or not named:
        return "misnamed" if strange else "missed"
    if named == {"unclear"} or not fault.is_repairable:
        return "unclear" if named == {"unclear"} else "found"
    return "repaired in part" if left or not have_equal_pairs(repaired, good.file) else "found"


def of_part(good: Good, faults: Iterable[Fault]) -> Iterator[tuple[Fault, GGUFFile]]:
    for fault in faults:
        if good.part != "full" and fault.name in OF_FULL_FILES:
            continue
        if good.part == "trunk" and not fault.name.startswith(OF_TRUNKS):
            continue
        if good.origin == NEVER_CENTRED and "norm-offset" in fault.kinds:
            continue  # to these no converter adds anything
        broken = fault.alter(good)
        if broken is not None:
            yield fault, broken


def look(models: Iterable[Good]) -> Tally:
    """In headers and samples."""
    tally = Tally()
    for whole in models:
        for good in parts(whole):
            tally.add_good(good, examine(good.file)[0])
            for fault, broken in of_part(good, in_headers()):
                findings, view = examine(broken)
                tally.add(good, fault, outcome(fault, good, broken, findings, view))
    return tally


def run(models: Iterable[Good], seconds: float) -> Tally:
    """By drafts, what headers show repaired before."""
    tally, backend = Tally(), CpuBackend()
    for good in models:
        tally.add_good(good, Checked.of(good.file).measured(backend, seconds).findings)
        for fault, broken in of_part(good, in_drafts()):
            checked = Checked.of(broken).measured(backend, seconds)
            tally.add(good, fault, outcome(fault, good, broken, checked.findings, checked.file_view))
    return tally


def show(title: str, tally: Tally, with_list: bool) -> None:
    print(f"\n{title}\n")
    num_good, accused = sum(tally.num_good.values()), {(name, part) for name, part, _ in tally.accused}
    by_part = ", ".join(f"{count} {part}" for part, count in tally.num_good.items())
    print(f"good files: {num_good} ({by_part}), accused or doubted: {len(accused)}")
    for name, part, sentence in tally.accused:
        print(f"  {name} ({part}): {sentence}")
    names = list(dict.fromkeys(name for name, _ in tally.faults))
    print("\n| fault | norms | " + " | ".join(OUTCOMES) + " |")
    print("|---|---|" + "---|" * len(OUTCOMES))
    for name in names:
        for origin in ORIGINS:
            counts = tally.faults.get((name, origin))
            if counts:
                print(f"| {name} | {origin} | " + " | ".join(str(counts[one] or "") for one in OUTCOMES) + " |")
    for line in tally.odd if with_list else ():
        print("  " + "; ".join(line))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=int, default=24, help="random ones, each with norms of four origins")
    parser.add_argument("--seed", type=int, default=1122)
    parser.add_argument("--mixes", nargs="*", help=f"of the demo model; default: all, {', '.join(MEASURED)} of drafts")
    parser.add_argument("--measure", action="store_true", help="try drafts of the demo's files, too: minutes")
    parser.add_argument("--seconds", type=float, default=5.0, help="of the trunk's texts, with --measure")
    parser.add_argument("--list", action="store_true", help="every file of which not all was found")
    parser.add_argument("--json", type=Path, help="write the counts here")
    given = parser.parse_args(arguments)
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory() as folder:
        mixes, measured = (tuple(default if given.mixes is None else given.mixes) for default in (MIXES, MEASURED))
        tallies["random models, headers"] = look(random_models(given.models, given.seed))
        tallies["demo model, headers"] = look(demo_in_every_mix(Path(folder), mixes))
        if given.measure:
            tallies["demo model, drafts"] = run(demo_in_every_mix(Path(folder), measured), given.seconds)
    for title, tally in tallies.items():
        show(title, tally, given.list)
    if given.json is not None:
        given.json.write_text(json.dumps({title: _as_object(tally) for title, tally in tallies.items()}, indent=1))
    return 1 if any(tally.accused for tally in tallies.values()) else 0


def _as_object(tally: Tally) -> dict[str, object]:
    faults = [{"fault": name, "norms": origin, **counts} for (name, origin), counts in tally.faults.items()]
    return {"good": dict(tally.num_good), "accused": tally.accused, "faults": faults}


if __name__ == "__main__":
    sys.exit(main())
