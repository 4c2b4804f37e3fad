"""Finds the contract under which the heads draft best, head after head, and says what each one gave."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np

from stepahead.backends.base import Backend, Floats
from stepahead.filecheck.agreement import HeadRun, TrunkRows, run_head, run_trunk
from stepahead.filecheck.contracts import VARIANTS, Contract, contracts, of_whole_file, with_halves
from stepahead.filecheck.finding import Finding, heads_named
from stepahead.filecheck.head_checks import GET_HEADS
from stepahead.filecheck.layout import Layout
from stepahead.filecheck.patched_file import PatchedFile
from stepahead.filecheck.repair import Repair
from stepahead.gguf import GGUFFile
from stepahead.models.registry import load_model
from stepahead.opening import load_tokenizer
from stepahead.texts import KINDS, load

AS_IT_IS = "as it is"
MAX_ROWS = 512  # of a text
MIN_TEXT = 16
MIN_ROWS = 128  # in all, to say anything
USELESS = 0.05  # of drafts right: less than the most frequent token gets
MAX_CHANGES = 3  # of one head

OnProgress = Callable[[int, int], None]
"""Called with (done, total)."""


@dataclass(frozen=True, slots=True)
class Trial:
    """The share of drafts that one contract gets right."""

    head: int
    contract: str
    acceptance: float


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """The views: the file with the trunk and the one with the heads, each under the contract that was found best."""

    num_rows: int
    trunk_accuracy: float  # of its best token, against the text
    trials: tuple[Trial, ...]
    findings: tuple[Finding, ...]
    file_view: GGUFFile
    heads_view: GGUFFile

    @property
    def is_judge(self) -> bool:
        """Whether the trunk knows enough of its texts to say something of heads."""
        return self.trunk_accuracy >= USELESS


@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    """What made a head better."""

    head: int
    contract: Contract
    before: float
    after: float


def measure(
    file: GGUFFile, heads: GGUFFile, backend: Backend, seconds: float = 20.0, on_progress: OnProgress | None = None
) -> Measurement:
    """Try the heads of `heads` (the same file, or a companion) on the trunk of `file`.

    seconds: for the trunk, which reads as many of the built-in texts as it can by then, and one in any case.
    Raises what loading raises.
    """
    texts = _read_texts(file, backend, seconds)
    if not texts:
        return Measurement(0, 0.0, (), (), file, heads)
    file_view, texts, findings = _settle_trunk(file, backend, texts)
    heads_view = file_view if heads is file else heads
    trunk = _trunk_accuracy(texts)
    if trunk < USELESS:
        what = f"foretells {100 * trunk:.1f} % of the tokens of plain texts: untrained or broken"
        finding = Finding("trunk", "unclear", "trunk", what, Repair("it is no judge of its heads"))
        num_rows = sum(len(text.ids) for text in texts)
        return Measurement(num_rows, trunk, (), (finding,), file_view, heads_view)
    search = _Search(file_view, heads_view, backend, texts, on_progress or _ignore)
    search.settle_all()
    if search.changes:
        search.settle_all(search.names, search.worse_variants())  # what ails one head ails the others, as a rule
    findings += search.findings()
    file_view = search.view if heads is file else file_view
    return Measurement(search.num_rows, trunk, search.list_trials(), findings, file_view, search.view)


def _read_texts(file: GGUFFile, backend: Backend, seconds: float, most: int = len(KINDS)) -> list[TrunkRows]:
    """The trunk's part."""
    tokenizer = load_tokenizer(file)
    model = load_model(file, backend, None)
    deadline = time.perf_counter() + seconds
    texts: list[TrunkRows] = []
    for kind in KINDS:
        ids = tokenizer.encode(load(kind)[0].prompt, add_bos=False)[: min(MAX_ROWS, model.context_length)]
        if len(ids) >= MIN_TEXT:  # less, of a context that is a joke
            texts.append(run_trunk(model, backend, ids))
        if time.perf_counter() > deadline or len(texts) == most:
            break
    return texts


def _settle_trunk(
    file: GGUFFile, backend: Backend, texts: list[TrunkRows]
) -> tuple[GGUFFile, list[TrunkRows], tuple[Finding, ...]]:
    """The trunk with its norms as they foretell the texts best. A head is measured by the trunk, a trunk by texts."""
    contract = of_whole_file(Layout.of(file))
    if contract is None:
        return file, texts, ()
    view = PatchedFile(file, contract.repair)
    others = _read_texts(view, backend, inf, len(texts))
    before, after = _foretold(texts), _foretold(others)
    if not after.is_better(before, is_expected=False):
        return file, texts, ()
    shares = f"{100 * before.acceptance:.1f} %", f"{100 * after.acceptance:.1f} %"
    what = f"{shares[0]} of the tokens of plain texts are foretold as it is, {shares[1]} with {contract.name}"
    return view, others, (Finding(contract.kind, "fault", "norms", what, contract.repair),)


def _foretold(texts: list[TrunkRows]) -> HeadRun:
    return HeadRun(tuple(text.best[:-1] == np.array(text.ids[1:]) for text in texts), ())


def _trunk_accuracy(texts: list[TrunkRows]) -> float:
    return _foretold(texts).acceptance


class _Search:
    """The heads settled so far are right in `view`; `_inputs` are the rows that the next one reads, by text."""

    def __init__(
        self, file: GGUFFile, heads: GGUFFile, backend: Backend, texts: list[TrunkRows], say: OnProgress
    ) -> None:
        self._file, self._heads = file, heads
        self._backend, self._texts, self._say = backend, texts, say
        self.num_heads = len(Layout.of(heads).heads)
        self._trials: dict[tuple[int, str], float] = {}
        self._begin()

    @property
    def num_rows(self) -> int:
        return sum(len(text.ids) for text in self._texts)

    @property
    def names(self) -> frozenset[str]:
        """Of the contracts that made heads better."""
        return frozenset(change.contract.name for change in self.changes)

    def list_trials(self) -> tuple[Trial, ...]:
        return tuple(Trial(head, name, found) for (head, name), found in self._trials.items())

    def settle_all(self, expected: frozenset[str] = frozenset(), left_out: frozenset[str] = frozenset()) -> None:
        """expected: names of contracts that need less evidence; left_out: of those that are not tried."""
        self._expected, self._left_out = expected, left_out
        self._begin()
        for head in range(self.num_heads):
            self._settle(head)

    def worse_variants(self) -> frozenset[str]:
        """Of the two ways to reorder rows the one that does less for all heads together: for one alone they are too
        much alike."""
        tried = dict.fromkeys(VARIANTS, 0.0)
        for (_, name), acceptance in self._trials.items():
            last = name.rpartition(", then ")[2]
            if last in tried:
                tried[last] += acceptance
        return frozenset({min(tried, key=lambda name: tried[name])} if all(tried.values()) else ())

    def _begin(self) -> None:
        self.view = self._heads
        self.changes: list[_Change] = []
        self._useless: dict[int, float] = {}
        self._inputs: list[Floats] = [text.hidden for text in self._texts]

    def _settle(self, head: int) -> None:
        """Change one thing after the other while that helps."""
        current = self._try(head, AS_IT_IS, self.view)
        for _ in range(MAX_CHANGES):
            better = self._better(head, current, contracts)
            if better is None and current.acceptance < USELESS:
                better = self._better(head, current, with_halves)
            if better is None:
                break
            contract, run = better
            self.changes.append(_Change(head, contract, current.acceptance, run.acceptance))
            self.view, current = PatchedFile(self.view, contract.repair), run
        if current.acceptance < USELESS and current.num_rows >= MIN_ROWS:
            self._useless[head] = current.acceptance
            # Nobody should be judged by rows that are noise: the next head reads the trunk's, as llama.cpp's do.
            self._inputs = [text.hidden[head + 1 :] for text in self._texts]
        else:
            self._inputs = list(current.hidden)

    def _better(
        self, head: int, current: HeadRun, offered: Callable[[Layout, int], Sequence[Contract]]
    ) -> tuple[Contract, HeadRun] | None:
        """The best contract, if it is better beyond doubt."""
        layout = Layout.of(self.view)
        options = [one for one in offered(layout, layout.heads[head]) if one.name not in self._left_out]
        runs = []
        for number, option in enumerate(options):
            runs.append((option, self._try(head, option.name, PatchedFile(self.view, option.repair))))
            self._say(head * len(options) + number + 1, self.num_heads * len(options))
        best = max(runs, key=lambda one: one[1].acceptance, default=None)  # the first of equals, which is the simplest
        return best if best is not None and best[1].is_better(current, best[0].name in self._expected) else None

    def _try(self, head: int, name: str, view: GGUFFile) -> HeadRun:
        file = view if self._heads is self._file else self._file
        run = run_head(file, view, self._backend, head, zip(self._texts, self._inputs, strict=True))
        after = "".join(f"{change.contract.name}, then " for change in self.changes if change.head == head)
        self._trials[head, f"{after}{name}"] = run.acceptance
        return run

    def findings(self) -> tuple[Finding, ...]:
        """One for each change, whatever heads have it, and one for heads that nothing helps."""
        found = []
        for name in dict.fromkeys(change.contract.name for change in self.changes):
            same = [change for change in self.changes if change.contract.name == name]
            before = _percentages(change.before for change in same)
            after = _percentages(change.after for change in same)
            contract, where = same[0].contract, heads_named([change.head for change in same])
            what = f"{before} of drafts are right as it is, {after} with {name}"
            found.append(Finding(contract.kind, "fault", where, what, contract.repair))
        if self._useless:
            right = _percentages(self._useless.values())
            what = f"{right} of drafts are right under every contract: untrained, or heads of another model"
            found.append(Finding("untrained", "fault", heads_named(list(self._useless)), what, Repair(GET_HEADS)))
        return tuple(found)


def _percentages(shares: Iterable[float]) -> str:
    return " / ".join(f"{100 * share:.1f}" for share in shares) + " %"


def _ignore(*_: object) -> None:
    pass
