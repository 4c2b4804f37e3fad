"""The pictures of --plot: matplotlib, imported late, since only they need it; drawn into files, never into windows."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from stepahead.cli.console import one_line
from stepahead.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
DPI = 144  # of a PNG
# Told apart also by those who see few colours (Okabe and Ito).
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f7f7f"


def figure(path: Path) -> "Figure":
    """An empty figure that `save` will write to `path`. To be called before anything is measured for it.

    Raises ConfigError for a name that is no picture's, a folder that is not there, and a missing matplotlib.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--plot {path}: the name decides the format: end it in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: there is no folder {path.parent}: make it or give another path")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(f"--plot needs matplotlib ({error}): pip install 'stepahead[plot]'") from error
    return Figure(layout="constrained")  # without pyplot there is no display to ask for, and no state to clear


def entitle(figure: "Figure", text: str) -> None:
    """The line above all panels. It may name a model, and so be anything: no markup, nothing that no XML may hold."""
    figure.suptitle(one_line(text), fontsize=10, parse_math=False)


def tidy(axes: "Axes") -> None:
    """A panel's look: a faint grid behind the lines, and no frame where there is no scale."""
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: "Figure", path: Path) -> None:
    """Write the figure; the same figure gives the same SVG. Raises ConfigError where `path` cannot be written."""
    import matplotlib

    suffix, drawn = path.suffix.lower(), io.BytesIO()
    # Text stays text, which can be searched and read aloud; ids come from the salt, not from chance; no date.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "stepahead"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box in its place is enough
        metadata = {"Date": None, "Creator": "stepahead"} if suffix == ".svg" else {"Software": "stepahead"}
        figure.savefig(drawn, format=suffix[1:], dpi=DPI, metadata=metadata)
    try:
        path.write_bytes(drawn.getvalue())
    except OSError as error:
        raise ConfigError(f"--plot {path}: cannot be written ({error.strerror}): give another path") from error
