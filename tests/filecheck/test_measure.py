"""What bytes do not show, drafts do: each wrong contract is found and undone. The demo's heads are trained."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stepahead.backends.cpu.ops import CpuBackend
from stepahead.demo import demo_path
from stepahead.filecheck.checked import Checked
from stepahead.filecheck.contracts import contracts
from stepahead.filecheck.finding import Finding
from stepahead.filecheck.layout import Layout
from stepahead.gguf import GGUFFile, QuantType
from support.broken_files import Change, interleaved, noise, norms_of, ones, plus, rewrite, swapped
from support.random_step35 import Shape, quantised, write_model

DEMO = Path(demo_path())
HEADS = range(14, 17)
GOOD = 0.5  # of the demo's drafts are right at least


@pytest.fixture(scope="module")
def backend() -> CpuBackend:
    return CpuBackend(threads=2)


def measured(path: Path, backend: CpuBackend, companion: Path | None = None) -> Iterator[Checked]:
    """Within the files' lifetime."""
    with GGUFFile.open(path) as file:
        if companion is None:
            yield Checked.of(file).measured(backend, 20.0)
            return
        with GGUFFile.open(companion) as heads:
            yield Checked.of(file, heads).measured(backend, 20.0)


def summary(findings: tuple[Finding, ...]) -> list[tuple[str, str, str]]:
    return [(one.kind, one.severity, one.where) for one in findings]


def assert_like_demo(view: GGUFFile, tolerance: float = 0.0) -> None:
    with GGUFFile.open(DEMO) as demo:
        for name in demo.tensors:
            found, expected = view.array(name), demo.array(name)
            assert abs(found - expected).max() <= tolerance, name


def all_heads(change: Change, *parts: str) -> dict[str, Change]:
    return {f"blk.{block}.{part}.weight": change for block in HEADS for part in parts}


def test_the_demo_model_is_good_and_every_other_contract_is_worse(backend: CpuBackend) -> None:
    for checked in measured(DEMO, backend):
        assert checked.findings == ()
        assert checked.repaired() is None
        trials = checked.measurement.trials
        for head in range(3):
            shares = {trial.contract: trial.acceptance for trial in trials if trial.head == head}
            assert shares["as it is"] > GOOD
            assert shares["the halves of eh_proj swapped"] < 0.05
            assert shares["rotary pairs by halves"] < shares["as it is"] - 0.03


ROWS = ("attn_q", "attn_k")
BROKEN = {
    "halves": (all_heads(swapped, "nextn.eh_proj"), "concat-order"),
    "rows": (all_heads(interleaved, *ROWS), "rope-layout"),
    "rows and norms": (all_heads(interleaved, *ROWS, "attn_q_norm", "attn_k_norm"), "rope-layout"),
    "1 twice": (dict.fromkeys(norms_of(DEMO, HEADS), plus(1.0)), "norm-offset"),
    "1 twice in hnorm": (dict.fromkeys(norms_of(DEMO, HEADS, ("hnorm",)), plus(1.0)), "norm-offset"),
    "no 1 in enorm": (dict.fromkeys(norms_of(DEMO, HEADS, ("enorm",)), plus(-1.0)), "norm-offset"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_wrong_contract_of_all_heads(tmp_path: Path, backend: CpuBackend, name: str) -> None:
    changes, kind = BROKEN[name]
    for checked in measured(rewrite(DEMO, tmp_path / "broken.gguf", changes), backend):
        assert summary(checked.findings) == [(kind, "fault", "heads 1 to 3")]
        assert "of drafts are right as it is" in checked.findings[0].what
        assert_like_demo(checked.repaired(), 1e-6 if kind == "norm-offset" else 0.0)


def test_a_whole_file_with_1_twice(tmp_path: Path, backend: CpuBackend) -> None:
    """Heads that suit a wrong trunk are no better: the trunk is judged first, by the texts."""
    broken = rewrite(DEMO, tmp_path / "broken.gguf", dict.fromkeys(norms_of(DEMO), plus(1.0)))
    for checked in measured(broken, backend):
        assert summary(checked.findings) == [("norm-offset", "fault", "norms")]
        assert "of the tokens of plain texts" in checked.findings[0].what
        assert_like_demo(checked.repaired(), 1e-6)


def test_a_trunk_alone_with_1_twice(tmp_path: Path, backend: CpuBackend) -> None:
    heads = tuple(f"blk.{block}." for block in HEADS)
    trunk = rewrite(DEMO, tmp_path / "trunk.gguf", dict.fromkeys(norms_of(DEMO, range(14)), plus(1.0)), without=heads)
    trunk = rewrite(trunk, tmp_path / "broken.gguf", {"output_norm.weight": plus(1.0)})
    for checked in measured(trunk, backend):
        assert ("norm-offset", "fault", "norms") in summary(checked.findings)
        with GGUFFile.open(DEMO) as demo:
            view = checked.repaired()
            assert all(abs(view.array(name) - demo.array(name)).max() < 1e-6 for name in view.tensors)


def test_a_wrong_contract_of_one_head(tmp_path: Path, backend: CpuBackend) -> None:
    """Its neighbour reads its rows, and yet is not accused."""
    changes = {"blk.15.nextn.eh_proj.weight": swapped}
    for checked in measured(rewrite(DEMO, tmp_path / "broken.gguf", changes), backend):
        assert summary(checked.findings) == [("concat-order", "fault", "head 2")]
        assert_like_demo(checked.repaired())


def test_two_wrong_contracts_at_once(tmp_path: Path, backend: CpuBackend) -> None:
    changes = all_heads(swapped, "nextn.eh_proj") | dict.fromkeys(norms_of(DEMO, HEADS), plus(-1.0))
    for checked in measured(rewrite(DEMO, tmp_path / "broken.gguf", changes), backend):
        assert summary(checked.findings) == [
            ("norm-offset", "fault", "norms of heads 1 to 3"),
            ("concat-order", "fault", "heads 1 to 3"),
        ]
        assert_like_demo(checked.repaired(), 1e-6)


def test_heads_that_were_never_trained(tmp_path: Path, backend: CpuBackend) -> None:
    with GGUFFile.open(DEMO) as file:
        names = list(Layout.of(file).names(HEADS))
    changes = {name: ones if name.endswith("norm.weight") else noise for name in names}
    for checked in measured(rewrite(DEMO, tmp_path / "broken.gguf", changes), backend):
        assert summary(checked.findings) == [("untrained", "fault", "heads 1 to 3")]  # no longer unclear
        assert checked.repaired() is None


def test_one_head_that_was_never_trained_does_not_condemn_the_next(tmp_path: Path, backend: CpuBackend) -> None:
    with GGUFFile.open(DEMO) as file:
        names = [name for name in Layout.of(file).names([15]) if not name.endswith("norm.weight")]
    for checked in measured(rewrite(DEMO, tmp_path / "broken.gguf", dict.fromkeys(names, noise)), backend):
        assert summary(checked.findings) == [("untrained", "fault", "head 2")]


def test_a_companion_is_repaired_on_its_trunk(tmp_path: Path, backend: CpuBackend) -> None:
    trunk = rewrite(DEMO, tmp_path / "trunk.gguf", without=tuple(f"blk.{block}." for block in HEADS))
    first = tuple(f"blk.{block}." for block in range(14))
    heads = rewrite(DEMO, tmp_path / "heads.gguf", all_heads(swapped, "nextn.eh_proj"), without=first)
    for checked in measured(trunk, backend, heads):
        assert summary(checked.findings) == [("concat-order", "fault", "heads 1 to 3")]
        view = checked.repaired()
        assert view.path == heads
        with GGUFFile.open(DEMO) as demo:
            assert all((view.data(name) == demo.data(name)).all() for name in view.tensors)


@pytest.mark.parametrize("seed", range(3))
def test_a_random_trunk_is_no_judge(tmp_path: Path, backend: CpuBackend, seed: int) -> None:
    """A random model is untrained, heads and trunk alike: that is what is said, and nothing is repaired."""
    path = write_model(tmp_path / "random.gguf", quantised(Shape(seed=seed), QuantType.Q8_0))
    for checked in measured(path, backend):
        assert summary(checked.findings) == [("trunk", "unclear", "trunk")]
        assert "untrained or broken" in checked.findings[0].what
        assert checked.repaired() is None


def test_a_window_is_tried_where_head_counts_do_not_tell(tmp_path: Path) -> None:
    for heads_full, offered in ((4, False), (6, True)):
        path = write_model(tmp_path / f"{heads_full}.gguf", Shape(heads_full=heads_full))
        with GGUFFile.open(path) as file:
            kinds = {contract.kind for contract in contracts(Layout.of(file), 4)}
        assert ("window" in kinds) == offered
        assert {"concat-order", "rope-layout"} <= kinds


def test_fused_matrices_are_reordered_but_for_their_values(tmp_path: Path) -> None:
    path = write_model(tmp_path / "fused.gguf", Shape(fused_qkv=True))
    name = "blk.4.attn_qkv.weight"
    with GGUFFile.open(path) as file:
        width = (6 + 2) * 32  # queries and keys

        def mixed(data, file, name):  # type: ignore[no-untyped-def]
            return [*interleaved(data[:width], file, name), *data[width:]]

        broken = mixed(file.data(name), file, name)
        (contract,) = (one for one in contracts(Layout.of(file), 4) if one.name == "rotary pairs by halves")
        assert (contract.repair.tensors[name](np.array(broken), file.tensors[name]) == file.data(name)).all()
