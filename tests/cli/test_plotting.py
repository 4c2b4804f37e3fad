"""Pictures: what cannot be drawn is refused before anything is measured, and the same figure is the same file."""

import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

from stepahead.cli.plotting import entitle, figure, save, tidy
from stepahead.errors import ConfigError


def drawn(path: Path) -> bytes:
    pytest.importorskip("matplotlib")
    picture = figure(path)
    axes = picture.subplots()
    axes.plot([1, 2, 3], [2, 1, 3], label="a line & more")
    axes.set_xlabel("steps")
    axes.legend()
    tidy(axes)
    save(picture, path)
    return path.read_bytes()


def test_an_svg_is_the_same_each_time_and_its_text_is_text(tmp_path):
    once = drawn(tmp_path / "a.svg")
    assert once == drawn(tmp_path / "b.SVG")
    texts = [node.text for node in xml.etree.ElementTree.fromstring(once).iter("{http://www.w3.org/2000/svg}text")]
    assert {"steps", "a line & more"} <= set(texts)


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_title_may_be_anything(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"a.{suffix}"
    picture = figure(path)
    entitle(picture, "$\\frac{$ \x1b[31m \x00 \udcff 模型 & <b>")
    save(picture, path)
    if suffix == "svg":
        texts = [node.text for node in xml.etree.ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]
        assert "$\\frac{$ ␛[31m ␀ ? 模型 & <b>" in texts


def test_a_png_is_one_and_no_window_was_asked_for(tmp_path):
    assert drawn(tmp_path / "a.png").startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize("name", ["picture", "picture.pdf", "picture.svg.txt", ".svg"])
def test_another_format_is_refused(name):
    with pytest.raises(ConfigError, match=r"\.png or \.svg"):
        figure(Path(name))


def test_a_folder_that_is_not_there_is_named_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no folder .*nowhere"):
        figure(tmp_path / "nowhere" / "a.svg")


def test_a_path_that_cannot_be_written(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "a.svg"
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        save(figure(path), path)


def test_without_matplotlib_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"pip install 'stepahead\[plot\]'"):
        figure(tmp_path / "a.svg")
