"""A trace's file: what is written is read back, a hostile one is refused by its line, a cut one is read up to there."""

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepahead.errors import ConfigError
from stepahead.trace_file import MAX_LINE, MAX_NUMBER, TraceHeader, TraceWriter, read_trace
from support.step_traces import drafted, plain

HEADER = TraceHeader("a model", "a machine", "avx2", 2)
numbers = st.floats(-MAX_NUMBER, MAX_NUMBER)
counts = st.integers(0, 10**12)


@st.composite
def steps(draw):
    num_drafted = draw(st.integers(0, 16))
    depth = draw(st.integers(0, num_drafted))
    figures = st.lists(numbers, max_size=num_drafted).map(tuple)
    return plain(
        **{name: draw(counts) for name in ("step", "request_id", "position", "num_rows", "num_experts")},
        **{name: draw(numbers) for name in ("throughput", "predicted_ms", "actual_ms", "predicted_draft_ms")},
        source=draw(st.sampled_from(("", "mtp", "copy", "forced", "copy+mtp"))),
        depth=depth,
        num_drafted=num_drafted,
        probabilities=draw(figures),
        prices=draw(figures),
        num_accepted=draw(st.integers(0, depth)),
    )


def write(path: Path, *content, header: TraceHeader = HEADER) -> Path:
    with TraceWriter(path, header) as writer:
        for step in content:
            writer(step)
    return path


def rounded(step):
    """To six digits, by way of decimal text."""
    content = {
        name: tuple(float(f"{item:.6g}") for item in value)
        if isinstance(value, tuple)
        else (float(f"{value:.6g}") if isinstance(value, float) else value)
        for name, value in asdict(step).items()
    }
    return type(step)(**content)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(content=st.lists(steps(), max_size=5), name=st.text(max_size=20))
def test_what_is_written_is_read_back_to_six_digits(tmp_path, content, name):
    header = replace(HEADER, model=name)
    trace = read_trace(write(tmp_path / "a.jsonl", *content, header=header))
    assert trace.header == header
    assert trace.steps == [rounded(step) for step in content]
    assert not trace.is_cut


def test_the_first_line_says_what_the_file_is(tmp_path):
    first, second = write(tmp_path / "a.jsonl", drafted(1, (1 / 3, 0.1))).read_text().splitlines()
    facts = {"model": "a model", "machine": "a machine", "isa": "avx2", "threads": 2, "stepahead": HEADER.stepahead}
    assert json.loads(first) == {"kind": "trace", "format": 1, **facts}
    assert json.loads(second)["probabilities"] == [0.333333, 0.1]
    assert " " not in second


def test_figures_of_numpy_are_figures(tmp_path):
    step = plain(position=np.int64(7), actual_ms=np.float32(1.5), num_drafted=1, prices=(np.float64(0.25),))
    assert read_trace(write(tmp_path / "a.jsonl", step)).steps == [
        plain(position=7, actual_ms=1.5, num_drafted=1, prices=(0.25,))
    ]


def test_another_trace_there_is_overwritten(tmp_path):
    path = write(tmp_path / "a.jsonl", plain(), plain())
    assert read_trace(write(path, plain(step=5))).steps == [plain(step=5)]


# --- writing goes wrong ---
def test_a_path_that_cannot_be_written_is_named_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.*give another path"):
        TraceWriter(tmp_path / "nowhere" / "a.jsonl", HEADER)


class FullDisk:
    """A file with room for so many writes."""

    def __init__(self, room: int) -> None:
        self._room = room

    def write(self, _: bytes) -> None:
        self._room -= 1
        if self._room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None: ...

    def close(self) -> None: ...


def test_a_disk_that_fills_up_is_one_error_at_the_end(tmp_path):
    writer = TraceWriter(tmp_path / "a.jsonl", HEADER)
    writer._file.close()
    writer._file = FullDisk(2)
    with pytest.raises(ConfigError, match="ends after 2 steps \\(No space left on device\\)"), writer:
        for number in range(5):
            writer(plain(step=number))  # raises nothing


def test_a_failed_disk_does_not_hide_another_error(tmp_path):
    writer = TraceWriter(tmp_path / "a.jsonl", HEADER)
    writer._file.close()
    writer._file = FullDisk(0)
    with pytest.raises(KeyboardInterrupt), writer:
        writer(plain())
        raise KeyboardInterrupt


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_device_without_room_is_one_error_too():
    with pytest.raises(ConfigError, match="ends after 0 steps"), TraceWriter(Path("/dev/full"), HEADER) as writer:
        writer(plain())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 2e12])
def test_a_figure_that_cannot_be_read_ends_the_trace_and_nothing_else(tmp_path, value):
    path = tmp_path / "a.jsonl"
    with pytest.raises(ConfigError, match="ends after 1 steps"), TraceWriter(path, HEADER) as writer:
        writer(plain())
        writer(plain(num_drafted=1, prices=(value,)))
        writer(plain())
    assert read_trace(path).steps == [plain()]


def test_a_process_that_is_killed_leaves_all_its_steps(tmp_path):
    path = tmp_path / "a.jsonl"
    script = (
        "import os, signal, sys; from pathlib import Path;"
        "from stepahead.trace_file import *; from stepahead.engine.trace import StepTrace;"
        f"writer = TraceWriter(Path({str(path)!r}), TraceHeader('m', 'n', 'i', 1));"
        "[writer(StepTrace(i, 1, 1, 1, 1, '', 0, 0, (), (), 0., 0., 0., 0., 0., 0, 0, 0)) for i in range(100)];"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script], env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    assert [step.step for step in read_trace(path).steps] == list(range(100))


# --- reading what is not ours ---
def line_of(**changes) -> bytes:
    return json.dumps({**asdict(drafted(1, (0.5, 0.25))), **changes}).encode() + b"\n"


def damaged(tmp_path, *lines: bytes) -> Path:
    path = write(tmp_path / "a.jsonl", plain())
    with path.open("ab") as file:
        file.writelines(lines)
    return path


HOSTILE = [
    b"\n",
    b"hello\n",
    b"[]\n",
    b"17\n",
    b'{"step": 0}\n',
    b"\xff\xfe\n",
    b"[" * 60_000 + b"\n",
    b'{"step": ' + b"9" * 5000 + b"}\n",
    b"x" * (MAX_LINE + 1),
    line_of(step=-1),
    line_of(step=True),
    line_of(step=1.5),
    line_of(step=10**13),
    line_of(step=None),
    line_of(step="1"),
    line_of(source=7),
    line_of(source="\x1b[31m"),
    line_of(source="a" * 33),
    line_of(actual_ms=float("nan")),
    line_of(actual_ms=float("inf")),
    line_of(actual_ms=1e300),
    line_of(actual_ms=10**400),
    line_of(actual_ms="2"),
    line_of(actual_ms=False),
    line_of(probabilities=0.5),
    line_of(probabilities=[0.5, "0.25"]),
    line_of(probabilities=[0.5, float("nan")]),
    line_of(probabilities=[0.5, [0.25]]),
    line_of(prices=[0.5] * 3),
    line_of(num_accepted=3),
    line_of(depth=3),
]


@pytest.mark.parametrize("line", HOSTILE, ids=[str(line[:70]) for line in HOSTILE])
def test_a_hostile_line_is_refused_by_its_number(tmp_path, line):
    with pytest.raises(ConfigError, match=r"a\.jsonl: line 3: ") as caught:
        read_trace(damaged(tmp_path, line, line_of()))
    assert len(str(caught.value)) < 200 + len(str(tmp_path))


@pytest.mark.parametrize("name", list(asdict(plain())))
def test_every_field_is_needed(tmp_path, name):
    content = asdict(plain())
    del content[name]
    with pytest.raises(ConfigError, match=f"line 3: {name} is missing"):
        read_trace(damaged(tmp_path, json.dumps(content).encode() + b"\n"))


def test_a_field_of_a_later_version_is_passed_over(tmp_path):
    assert len(read_trace(damaged(tmp_path, line_of(colour="red"))).steps) == 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_are_more_than_an_error(tmp_path, content):
    path = tmp_path / "b.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"line 1: "):
        read_trace(path)


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_only_a_last_line_without_an_end_may_be_cut(tmp_path, end):
    line = line_of()
    for length in (1, 5, len(line) // 2, len(line) - 2):
        path = damaged(tmp_path, line[:length] + end)
        if end:
            with pytest.raises(ConfigError, match="line 3: no JSON"):
                read_trace(path)
        else:
            trace = read_trace(path)
            assert (trace.steps, trace.is_cut) == ([plain()], True)


def test_a_last_line_that_only_lacks_its_end_counts(tmp_path):
    trace = read_trace(damaged(tmp_path, line_of()[:-1]))
    assert (len(trace.steps), trace.is_cut) == (2, False)


HEADERS = [
    ({"kind": "bench"}, "not the header"),
    ({"format": 2}, "format '2', this version reads 1"),
    ({"threads": "2"}, "threads is '2'"),
    ({"model": None}, "model is 'None'"),
]


@pytest.mark.parametrize(("changes", "fault"), HEADERS)
def test_a_header_that_is_none(tmp_path, changes, fault):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"kind": "trace", "format": 1, **asdict(HEADER), **changes}) + "\n")
    with pytest.raises(ConfigError, match=f"line 1: .*{fault}"):
        read_trace(path)


def test_files_that_are_none(tmp_path):
    for path, fault in (
        (tmp_path / "none", "cannot be read"),
        (tmp_path, "cannot be read"),
        (Path("/dev/zero"), "longer"),
    ):
        with pytest.raises(ConfigError, match=fault):
            read_trace(path)


def test_too_many_steps_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("stepahead.trace_file.MAX_STEPS", 2)
    path = write(tmp_path / "a.jsonl", *(plain(step=number) for number in range(3)))
    with pytest.raises(ConfigError, match="line 4: more than 2 steps"):
        read_trace(path)
