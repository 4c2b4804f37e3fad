"""Whoever watches hears of every file that is mapped, before it is read, and of its end."""

import gc
from pathlib import Path

import pytest

from stepahead.errors import ModelFormatError
from stepahead.gguf import GGUFFile
from stepahead.mapped_files import watch_mapped_files


@pytest.fixture
def heard():
    events: list[tuple[str, Path, int]] = []

    def watch(mapping, path):
        size = len(mapping)
        events.append(("mapped", path, size))
        return lambda: events.append(("ended", path, size))

    watch_mapped_files(watch)
    yield events
    watch_mapped_files(None)


def test_files_are_told_of_while_something_reads_them(heard, model_path) -> None:
    path = model_path("f32")
    mapped = ("mapped", path, path.stat().st_size)
    file = GGUFFile.open(path)
    assert heard == [mapped]
    view = file.data("output_norm.weight")
    file.close()
    del file
    gc.collect()
    assert heard == [mapped], "a view keeps its mapping"
    del view
    gc.collect()
    assert heard == [mapped, ("ended", *mapped[1:])]


def test_a_file_is_told_of_before_it_is_read(heard, tmp_path) -> None:
    path = tmp_path / "none.gguf"
    path.write_bytes(b"no model")
    with pytest.raises(ModelFormatError):
        GGUFFile.open(path)
    assert heard[0] == ("mapped", path, 8)
