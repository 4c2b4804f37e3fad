"""What happens to a model's file while it is in use: replaced or removed, nothing; cut short, one line and exit 1."""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from stepahead.demo import demo_path

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="this system has no SIGBUS")
PROMPTS = ("def quicksort(xs):", "class Point:\n    ")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copy(demo_path(), tmp_path / "model.gguf"))


def started(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "stepahead.cli", *map(str, arguments), "--threads", "1"]
    environment = {name: value for name, value in os.environ.items() if name != "STEPAHEAD_LOG"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.fixture
def serve(model: Path):
    pytest.importorskip("fastapi")
    processes: list[subprocess.Popen] = []

    def start(*flags: str) -> tuple[subprocess.Popen, str]:
        process = started("serve", model, "--port", "0", *flags)
        processes.append(process)
        line = process.stdout.readline()
        assert " is served at http://127.0.0.1:" in line, process.stderr.read()
        return process, line.split(" at ")[1].split(" ")[0]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def texts(url: str) -> list[str]:
    found = []
    for prompt in PROMPTS:
        body = json.dumps({"prompt": prompt, "max_tokens": 40, "temperature": 0, "ignore_eos": True}).encode()
        request = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            found.append(json.load(answer)["choices"][0]["text"])
    return found


def line_of(path: Path) -> str:
    return f"stepahead: {path} was truncated or its disk failed while the model was in use\n"


@pytest.mark.parametrize("flags", [("--repack", "never"), ()], ids=["from the file", "repacked"])
def test_a_served_model_that_is_cut_short_is_named(serve, model: Path, flags: tuple[str, ...]) -> None:
    process, url = serve(*flags)
    assert all(texts(url))
    os.truncate(model, 4096)
    with pytest.raises(OSError):
        texts(url)
    assert process.wait(30) == 1
    assert process.communicate() == ("", line_of(model))


def test_a_served_model_that_is_replaced_or_removed_goes_on(serve, model: Path, tmp_path: Path) -> None:
    process, url = serve("--repack", "never")
    before = texts(url)
    other = tmp_path / "other"
    other.write_bytes(b"no model at all")
    other.replace(model)
    assert texts(url) == before
    model.unlink()
    assert texts(url) == before
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30) == ("", "") and process.returncode == 0


@pytest.mark.parametrize("speculation", ["auto", "off"])
def test_a_model_that_is_cut_short_while_it_writes_is_named(model: Path, speculation: str) -> None:
    flags = ("--max-tokens", 1500, "--ignore-eos", "--repack", "never", "--speculation", speculation)
    process = started("run", model, "-p", PROMPTS[0], *flags)
    begun = process.stdout.read(1)
    os.truncate(model, 4096)
    rest, told = process.communicate(timeout=60)
    assert begun and (process.returncode, told) == (1, line_of(model)), rest[-200:]


def test_repacked_weights_that_are_cut_short_are_named(model: Path, tmp_path: Path) -> None:
    """Files of them are for large models: here, for this one."""
    program = (
        "import sys; from stepahead.repack import repacked; repacked.MIN_FILE_BYTES = 0; "
        "from stepahead.cli import main; sys.exit(main())"
    )
    folder = tmp_path / "repacked"
    folder.mkdir()
    flags = ("run", model, "-p", PROMPTS[0], "--ignore-eos", "--threads", 1, "--repack", folder, "--max-tokens")
    command = [sys.executable, "-c", program, *map(str, flags)]
    subprocess.run([*command, "2"], check=True, capture_output=True)
    weights = [path for path in folder.iterdir() if path.stat().st_size > 1 << 20]
    if not weights:
        pytest.skip("this machine's kernels take the weights as they are")
    process = subprocess.Popen([*command, "1500"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.read(1)
    os.truncate(weights[0], 4096)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (1, line_of(weights[0]))


def test_a_name_with_a_line_break_stays_one_line(model: Path) -> None:
    odd = model.rename(model.with_name("two\nlines.gguf"))
    process = started("run", odd, "-p", PROMPTS[0], "--max-tokens", 1500, "--ignore-eos", "--repack", "never")
    process.stdout.read(1)
    os.truncate(odd, 4096)
    _, told = process.communicate(timeout=60)
    assert told.count("\n") == 1 and "two lines.gguf was truncated" in told
