"""How figures look: colour-blind safe (Okabe & Ito), distinct in grey by marker and line style."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.common.results import Folder

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
PURPLE, YELLOW = "#CC79A7", "#E69F00"
# Real labels dark and round, random ones light and square, in every figure.
KINDS = {
    "real": {"color": BLUE, "marker": "o", "label": "real labels"},
    "random": {"color": ORANGE, "marker": "s", "label": "random labels"},
}


@contextlib.contextmanager
def figure_style() -> Iterator[None]:
    """matplotlib without a screen, in the project's style."""
    import matplotlib as mpl

    mpl.use("Agg")
    settings = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e6e6e6",
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "lines.markersize": 4,
        "lines.linewidth": 1.5,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "savefig.dpi": 150,
        "svg.hashsalt": "iw_jax",
    }
    with mpl.rc_context(settings):
        yield


def save(figure: Any, folder: Folder) -> None:
    """Writes figure.png and figure.pdf."""
    import matplotlib.pyplot as plt

    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # it has done its work, and would do it again for each kind
    for kind in ("png", "pdf"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind)
        folder.write_bytes(f"figure.{kind}", buffer.getvalue())
    plt.close(figure)


def band(axis: Any, x: Any, by_seed: Any, **style: Any) -> Any:
    """Mean over seeds as a line, the range of the seeds as a band.

    Args:
      axis: matplotlib axes.
      x: (B,).
      by_seed: (B, S).
      **style: of the line.
    """
    by_seed = np.asarray(by_seed)
    (line,) = axis.plot(x, by_seed.mean(1), **style)
    axis.fill_between(
        x, by_seed.min(1), by_seed.max(1), color=line.get_color(), alpha=0.2, linewidth=0
    )
    return line
