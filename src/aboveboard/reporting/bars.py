"""Bars, as SVG written by hand: for pages that are made where no drawing library is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from aboveboard.reporting.page import Figure

_BLUE, _ORANGE, _INK, _FAINT = "#0072b2", "#d55e00", "#1b1b1b", "#d9d9d9"
_ROW, _BAR, _LEFT, _WIDE, _RIGHT = 30, 18, 250, 400, 110


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its label, how many it stands for, and whether it should catch the eye."""

    label: str
    count: int
    is_marked: bool = False


def bars(name: str, caption: str, rows: Sequence[Bar]) -> Figure:
    """A bar a row, from zero, its count behind it; the figure has no PNG."""
    most, total = max((row.count for row in rows), default=0), sum(row.count for row in rows)
    width, height = _LEFT + _WIDE + _RIGHT, _ROW * len(rows) + 12
    parts = [f'<line x1="{_LEFT}" y1="2" x2="{_LEFT}" y2="{height - 2}" stroke="{_FAINT}"/>']
    for i, row in enumerate(rows):
        top = 6 + i * _ROW
        length = round(_WIDE * row.count / most, 1) if most else 0
        share = f" ({100 * row.count / total:.0f} %)" if total else ""
        middle = f'y="{top + _BAR / 2 + 5:g}" fill="{_INK}"'
        parts += [
            f'<text x="{_LEFT - 10}" {middle} text-anchor="end">{escape(row.label)}</text>',
            f'<rect x="{_LEFT}" y="{top}" width="{length:g}" height="{_BAR}" fill="{_ORANGE if row.is_marked else _BLUE}"/>',
            f'<text x="{_LEFT + length + 8:g}" {middle}>{row.count:,}{share}</text>',
        ]
    body = "\n".join(parts)
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    svg = f'<svg {size} xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="14">\n{body}\n</svg>'
    alternative = f"{caption} " + "; ".join(f"{row.label}: {row.count:,}" for row in rows)
    return Figure(name, caption, alternative, svg.encode(), b"")
