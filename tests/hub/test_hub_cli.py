"""pull, list and rm as a person types them; in a process of its own, killed at any moment."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from stepahead.cli import main
from support.hub_toys import FULL, HEADS, REPO, TRUNK


@pytest.fixture
def cli(capsys, hub):
    def run(*args: object) -> tuple[int, str, str]:
        code = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_repository_alone_is_listed_with_the_best_marked(cli, toy_repo):
    code, out, _ = cli("pull", REPO)
    assert code == 0
    rows = {label: line for line in out.splitlines() for label in ("IQ4_XS", "Q4_K_M", HEADS) if f" {label} " in line}
    assert "none in it" in rows["IQ4_XS"]
    assert "→" in rows["Q4_K_M"]
    assert "3, and nothing else" in rows[HEADS]
    assert out.rstrip().endswith(f"stepahead pull {REPO}:Q4_K_M")
    found = json.loads(cli("pull", REPO, "--json")[1])
    assert {one["label"]: one["num_heads"] for one in found["offers"]} == {"IQ4_XS": 0, "Q4_K_M": 3, "Q8_0": 3}


def test_pull_run_list_inspect_and_rm(cli, toy_repo, tmp_path):
    name = f"{REPO}:IQ4_XS"
    code, out, err = cli("pull", name)
    assert code == 0, err
    assert f"3 MTP heads from {REPO}:{HEADS}" in out
    code, _, err = cli("run", name, "-p", "def f(", "--max-tokens", 4)
    assert code == 0, err
    assert json.loads(cli("inspect", name, "--json")[1])["num_heads_usable"] == 3
    assert cli("doctor", name, "--fix", tmp_path / "fixed.gguf")[0] == 0
    assert name in cli("list")[1]
    listed = json.loads(cli("list", "--json")[1])
    assert [(one["name"], one["is_here"], len(one["heads"])) for one in listed] == [(name, True, 1)]
    assert cli("rm", name)[0] == 2  # nobody to be asked
    code, out, _ = cli("rm", name, "--yes")
    assert (code, "2 files" in out) == (0, True)
    assert cli("list")[1].startswith("nothing has been pulled yet")
    assert cli("rm", name, "--yes")[0] == 2


def test_to_and_from(cli, toy_repo, tmp_path):
    assert cli("pull", f"{REPO}:IQ4_XS", "--to", tmp_path / "stick")[0] == 0
    code, out, err = cli("pull", "--from", tmp_path / "stick", "--name", "step", "--json")
    assert code == 0, err
    assert json.loads(out)["name"] == "step"


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ((), 2, "give one of REPO and --from"),
        (("o/r", "--from", "x"), 2, "give one of REPO and --from"),
        (("nonsense",), 2, "names no repository"),
        (("o/none:Q4_0",), 2, "no such repository"),
        ((f"{REPO}:Q9",), 2, "has no 'Q9'; it has: "),
        (("--from", "/nonexistent"), 2, "no such folder"),
        ((REPO + ":Q4_K_M", "--connections", "99"), 2, "give 1 to 32"),
        ((REPO + ":Q4_K_M", "--revision", "v7"), 2, "no such revision"),
    ],
)
def test_mistakes_are_one_line(cli, toy_repo, args, code, said):
    found, out, err = cli("pull", *args)
    assert (found, out) == (code, "")
    assert said in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("stepahead: ")


def test_wrong_bytes_are_exit_code_1(cli, hub, toy_repo):
    hub.wrong_bytes.add(FULL)
    code, out, err = cli("pull", f"{REPO}:Q4_K_M")
    assert (code, out) == (1, "")
    assert "it was removed; run the same command again" in err


def test_offline_a_pulled_model_is_there_and_another_is_not(cli, toy_repo, monkeypatch):
    from huggingface_hub import constants

    cli("pull", f"{REPO}:IQ4_XS")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert cli("pull", f"{REPO}:IQ4_XS")[0] == 0
    code, _, err = cli("pull", f"{REPO}:Q4_K_M")
    assert code == 2
    assert "HF_HUB_OFFLINE is set" in err


def test_a_pull_that_is_killed_again_and_again_ends_whole(hub, toy_repo, tmp_path):
    """In processes of their own, with the environment that users have: HF_ENDPOINT, HF_HOME."""
    toy_repo.files[TRUNK] += random.Random(3).randbytes(6_000_000)  # the format ends where its tensors end
    hub.pause = 0.004
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
        "STEPAHEAD_CACHE": str(tmp_path / "cache"),
        "NO_PROXY": "127.0.0.1,localhost",
    }
    command = [sys.executable, "-m", "stepahead.cli", "pull", f"{REPO}:IQ4_XS", "--connections", "2", "--json"]
    dice, trunk, heads = random.Random(5), len(toy_repo.files[TRUNK]), len(toy_repo.files[HEADS])
    headers = min(trunk, 8 << 20) + heads
    for _ in range(3):
        before = hub.sent
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        limit = before + headers + dice.randrange(500_000, 2_000_000)
        while hub.sent < limit and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        whole = [path for path in (tmp_path / "home").rglob("*") if path.is_file() and len(path.name) == 64]
        assert all(path.stat().st_size == heads for path in whole)
        assert not list((tmp_path / "cache" / "models").glob("*.json"))
    hub.pause, before = 0.0, hub.sent
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    model = json.loads(done.stdout)
    assert model["is_here"]
    assert hub.sent - before < headers + trunk + heads - 1_500_000  # what had come was not fetched again
