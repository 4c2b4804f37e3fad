"""Decodes at a forced acceptance: both sides accept what was asked for, and luck is taken out of the figures."""

import json
from pathlib import Path

import pytest

from benchmarks.peers import llama
from benchmarks.peers.__main__ import main
from benchmarks.peers.forced import OURS_AUTO, Speeds, as_text, contenders
from benchmarks.peers.side import Forced, some_ids
from benchmarks.peers.worker import Setting, Worker

RATES = (0.8, 0.6, 0.4)
PREFIX = some_ids(512, 24, seed=1)
needs_llama = pytest.mark.skipif(llama.why_missing() is not None, reason=str(llama.why_missing()))


def test_ours_accepts_what_is_asked_for(tiny_model: Path) -> None:
    with Worker(Setting("stepahead", "stepahead", str(tiny_model), 1, 1024)) as worker:

        def forced(depth: int | None) -> Forced:
            question = {"prefix": PREFIX, "num_tokens": 700, "depth": depth, "rates": RATES, "seed": 3}
            return Forced(**worker.ask("forced", **question)[0])

        plain, deepest, auto = forced(0), forced(3), forced(None)
    assert (plain.num_tokens, plain.num_drafted, plain.expected) == (699, 0, 0)
    assert plain.rate == 699 / plain.seconds
    assert deepest.expected == pytest.approx(deepest.num_drafted * sum(RATES) / 3, rel=0.02)
    assert deepest.num_accepted == pytest.approx(deepest.expected, rel=0.1)
    assert auto.num_tokens == 699


@needs_llama
def test_their_server_accepts_what_is_asked_for(tiny_model: Path) -> None:
    setting = Setting("server", "llama.cpp server", str(tiny_model), 1, 1024, depth=2, rates=(0.9,))
    with Worker(setting) as worker:
        drafted = Forced(**worker.ask("forced", prefix=PREFIX, num_tokens=300, seed=2)[0])
    # Beyond the rates given, nothing is accepted.
    assert drafted.num_accepted / (drafted.num_drafted / 2) == pytest.approx(0.9, abs=0.07)
    assert drafted.expected == pytest.approx(drafted.num_drafted * 0.45)
    assert drafted.num_tokens == 299


def test_luck_is_taken_out() -> None:
    unlucky = Forced(seconds=2.0, num_tokens=100, num_drafted=60, num_accepted=40, expected=50.0)
    assert unlucky.rate == 55.0  # 60 steps would have given 110 tokens


def test_auto_is_held_against_the_fastest_of_the_peers() -> None:
    def decode(rate: float) -> Forced:
        return Forced(1.0, int(rate), 0, 0, 0.0)

    samples = {
        OURS_AUTO: (30, 33),
        "stepahead plain": (20, 20),
        "llama.cpp plain": (20, 22),
        "llama.cpp depth 1": (10, 44),
    }
    speeds = Speeds({name: [decode(rate) for rate in rates] for name, rates in samples.items()})
    assert speeds.best_peer == "llama.cpp depth 1"
    assert speeds.ratio(OURS_AUTO, "llama.cpp plain").median == 1.5
    facts = dict.fromkeys(("model", "file", "machine", "threads", "rounds", "prefix"), "x")
    assert "llama.cpp's best (llama.cpp depth 1): 1.88x" in as_text(facts, RATES, 30, speeds)
    alone = Speeds({OURS_AUTO: speeds.samples[OURS_AUTO]})
    assert alone.best_peer is None
    assert "llama.cpp" not in as_text(facts, RATES, 30, alone)


def test_every_depth_of_every_layout_is_a_server_of_its_own() -> None:
    ours = Setting("stepahead", "stepahead", "m", 2, 100)
    peer = Setting("llama.cpp repacked", "llama.cpp", "m", 2, 100, repack=True)
    found = contenders([ours, peer], 3, RATES)
    assert [contender.name for contender in found[:3]] == [OURS_AUTO, "stepahead plain", "stepahead depth 1"]
    assert [contender.depth for contender in found] == [None, 0, 1, 2, 3, 0, 1, 2, 3]
    assert all(contender.setting is ours for contender in found[:5])
    assert [contender.setting.depth for contender in found[5:]] == [0, 1, 2, 3]
    assert all(contender.setting.engine == "llama.cpp server" for contender in found[5:])


def test_the_command_measures_ours_alone(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    flags = ["--alone", "--rounds", "2", "--prefix", "8", "--tokens", "20", "--threads", "1", "--prompts"]
    assert main(["--model", str(tiny_model), *flags, "--synth-rates", ".8,.6", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["synth_rates"] == [0.8, 0.6]
    assert report["best_peer"] is None
    assert [len(samples) for samples in report["samples"].values()] == [2] * 5
    assert set(report["tokens_per_second"]) == set(report["samples"])
    assert "acceptance forced to 0.8, 0.6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--synth-rates", "x"], "--synth-rates 'x'"),
        (["--synth-rates", ".5,.6"], "rates[1]=0.6"),
        (["--synth-rates", ".5", "--plot", "a.svg"], "--plot draws what --synth-rates leaves out"),
    ],
)
def test_mistakes_are_named(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--alone", *flags]) != 0
    assert message in capsys.readouterr().err
