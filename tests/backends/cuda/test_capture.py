"""What a GPU forbids while a graph is captured, and never says before: tried with a GPU that is not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stepahead

pytest.importorskip("triton")

from backends.cuda.test_replayed_model import SMALLEST

FOLDERS = (Path(stepahead.__file__).parents[1], Path(__file__).parents[2])


@pytest.mark.parametrize("settings", [{"max_num_seqs": 2}, {"cpu_experts": 1}], ids=["whole", "experts on the host"])
def test_captures_do_nothing_but_launch(model_path, settings: dict[str, int]) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, FOLDERS))}
    command = [
        sys.executable,
        str(Path(__file__).with_name("fake_gpu.py")),
        str(model_path(SMALLEST)),
        json.dumps(settings),
    ]
    found = subprocess.run(command, capture_output=True, text=True, timeout=570, env=environment, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    facts = json.loads(found.stdout.splitlines()[-1])
    assert facts["faults"] == []
    assert facts["num_graphs"] > 20
