"""What a diagnosis means, in plain words: what `auto` will do, and what its reader can do."""

from collections.abc import Iterator
from collections.abc import Sequence as Seq

from stepahead.backends.base import PANEL_ROWS, PLAIN, Backend
from stepahead.backends.cpu.matrix import has_kernels
from stepahead.diagnosis.diagnosis import Diagnosis
from stepahead.diagnosis.gain import Expectation
from stepahead.diagnosis.text_report import TextReport
from stepahead.gguf import QuantType
from stepahead.model_info import EXPECTED_HEADS

MIN_OTHER_CPUS = 0.3
MIN_BANDWIDTH_SHARE = 0.5  # of what memory gives, for a plain step that is bound by it
CACHED_BYTES = 256 << 20  # a token's weights that may come from caches: their rate says nothing of memory
MIN_ACCEPTANCE = 0.1  # of first draft tokens, on the kind of text that is drafted best
MIN_SLOW_SHARE = 0.01  # of all weights
CLEAR_LOSS = 0.98  # times the speed without drafts: below, a fixed depth is worth a warning


def auto_plan(diagnosis: Diagnosis) -> tuple[str, ...]:
    """What `auto` is expected to do with each kind of text, and why."""
    if diagnosis.num_heads_usable == 0:
        return ("auto decodes plainly: there are no heads to draft with",)
    return tuple(_plan(report) for report in diagnosis.texts)


def advise(diagnosis: Diagnosis, backend: Backend) -> tuple[str, ...]:
    """What could be better, and how; nothing if all is well."""
    return (
        *_on_heads(diagnosis),
        *_on_drafts(diagnosis),
        *_on_threads(diagnosis),
        *_on_memory(diagnosis),
        *_on_kernels(diagnosis, backend),
    )


def _plan(report: TextReport) -> str:
    best = report.best
    if best is not None:
        tokens = "token" if best.depth == 1 else "tokens"
        return f"{report.kind}: up to {best.depth} draft {tokens} a step, {best.gain:.2f}x the plain speed expected"
    nearest = max(report.expectations, key=lambda one: one.gain, default=None)
    why = "no draft was verified" if nearest is None else f"depth {nearest.depth} would give {nearest.gain:.2f}x"
    return f"{report.kind}: no drafts from the heads: {why}"


def _on_heads(diagnosis: Diagnosis) -> Iterator[str]:
    info, usable = diagnosis.info, diagnosis.num_heads_usable
    if info.num_heads_found == 0:
        yield info.heads_verdict
    elif usable == 0:
        yield f"{info.num_heads_found} MTP heads are there, but not loaded (mtp={diagnosis.mtp!r}): leave --mtp out"
    elif info.num_heads_found < EXPECTED_HEADS:
        missing = EXPECTED_HEADS - info.num_heads_found
        yield f"{missing} of {EXPECTED_HEADS} heads missing in this file: {info.heads_verdict.partition(': ')[2]}"


def _on_drafts(diagnosis: Diagnosis) -> Iterator[str]:
    """Where a fixed depth would lose, which is what people complain of."""
    drafted = [report for report in diagnosis.texts if report.acceptance]
    if drafted and max(report.acceptance[0] for report in drafted) < MIN_ACCEPTANCE:
        yield "the heads are hardly ever right: untrained, or wrongly converted? --measure tries other contracts"
    losses = {report.kind: [one for one in report.expectations if one.gain < CLEAR_LOSS] for report in drafted}
    if any(losses.values()):
        worst = min(one.gain for losing in losses.values() for one in losing)
        where = ", ".join(f"{kind} ({_depths(losing)})" for kind, losing in losses.items() if losing)
        yield f"a fixed depth makes it slower, down to {worst:.2f}x, on {where}: leave it to auto"


def _depths(losing: Seq[Expectation]) -> str:
    return ", ".join(str(one.depth) for one in losing)


def _on_threads(diagnosis: Diagnosis) -> Iterator[str]:
    machine = diagnosis.machine
    if machine.threads > machine.cores:
        yield (
            f"{machine.threads} threads on {machine.cores} cores wait for each other: "
            f"give --threads {machine.cores} or leave it out"
        )
    if machine.cpus_of_others >= MIN_OTHER_CPUS and machine.threads + machine.cpus_of_others > machine.cores:
        yield (
            f"other programs used {machine.cpus_of_others:.1f} CPUs meanwhile, and threads that meet wait for the "
            "slowest: stop them, or give fewer --threads; measure again on a quiet machine"
        )


def _on_memory(diagnosis: Diagnosis) -> Iterator[str]:
    nbytes, machine = diagnosis.info.bytes_per_token, diagnosis.machine
    rate = 1e3 * nbytes / diagnosis.cost.pass_ms[0]
    if machine.bytes_per_second is None or nbytes <= CACHED_BYTES:
        return
    if rate < MIN_BANDWIDTH_SHARE * machine.bytes_per_second:
        yield (
            f"a plain step reads {rate / 1e9:.1f} GB/s where this memory gives {machine.bytes_per_second / 1e9:.1f}: "
            "it waits for something else; more --threads, repacked weights or another tensor type may help"
        )


def _on_kernels(diagnosis: Diagnosis, backend: Backend) -> Iterator[str]:
    machine = diagnosis.machine
    if machine.device:
        return
    if machine.backend != "cpu":
        yield f"the {machine.backend} backend says what is right, slowly: leave --device out to be fast"
        return
    if machine.isa != machine.best_isa:
        yield f"{machine.isa} is used where {machine.best_isa} could be: unset STEPAHEAD_ISA"
    types = [(QuantType[name], count) for name, count in diagnosis.info.bytes_by_type.items()]
    slow = {type.name: count for type, count in types if not has_kernels(type)}
    if sum(slow.values()) > MIN_SLOW_SHARE * diagnosis.info.nbytes:
        yield f"no kernels for {', '.join(slow)}: such weights are decoded at each use; another quantisation is faster"
    if not diagnosis.repacked:
        waiting = [type.name for type, _ in types if backend.preferred_layout(type, (PANEL_ROWS, 256)) != PLAIN]
        if waiting:
            yield f"weights are not repacked, which {', '.join(waiting)} would be faster with: see --repack"
