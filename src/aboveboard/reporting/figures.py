"""Drawings for reports, on matplotlib: one style, and the same bytes for the same values."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context, rcdefaults
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from aboveboard.reporting.page import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")
"""Okabe and Ito's, told apart by people with any colour vision."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT = "#1b1b1b", "#d9d9d9"

_STYLE: Any = {
    "svg.hashsalt": "aboveboard",
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#777777",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "savefig.dpi": 144,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw inside it: the one style, whatever settings the machine has for matplotlib."""
    with rc_context():
        rcdefaults()
        with rc_context(_STYLE):
            yield


def blank(width: float = 7.2, height: float = 4.2) -> tuple[Drawing, Axes]:
    """An empty drawing of so many inches with one pair of axes."""
    drawing = Drawing(figsize=(width, height), layout="constrained")
    return drawing, drawing.subplots()


def finish(drawing: Drawing, name: str, caption: str, alternative: str) -> Figure:
    """The drawing as SVG and PNG, without dates."""
    svg, png = io.BytesIO(), io.BytesIO()
    drawing.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    drawing.set_layout_engine("none")  # as it was laid out for the SVG
    drawing.savefig(png, format="png", metadata={"Software": None})
    return Figure(name, caption, alternative, svg.getvalue(), png.getvalue())
