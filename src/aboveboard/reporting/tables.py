"""Tables that people read in a page and programs in CSV and JSON, from one set of values."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Cell = str | int | float | bool | None
Kind = Literal["text", "count", "number", "share"]
"""How a column is shown: a share of 0-1 as per cent, a number with three digits, a count with commas."""
DIGITS = 9


@dataclass(frozen=True, slots=True)
class Column:
    """`key` heads the column in CSV and JSON, `heading` in the page; a column may stand in one of them only."""

    key: str
    heading: str
    kind: Kind = "text"
    in_page: bool = True
    in_data: bool = True


@dataclass(frozen=True)
class Table:
    """Rows of cells under their columns; `name` is the file's, `note` stands below it in the page."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"table {self.name}: each row needs a cell for each of its {len(self.columns)} columns")

    def document(self) -> dict[str, Any]:
        """The table for JSON: title, note, and each row as a mapping of keys to values."""
        kept = [i for i, column in enumerate(self.columns) if column.in_data]
        rows = [{self.columns[i].key: exact(row[i]) for i in kept} for row in self.rows]
        return {"title": self.title, "note": self.note, "columns": [self.columns[i].key for i in kept], "rows": rows}

    def csv(self) -> bytes:
        """The table as CSV with a heading line; nothing is an empty field, true and false are words."""
        kept = [i for i, column in enumerate(self.columns) if column.in_data]
        return csv_of([self.columns[i].key for i in kept], ([_guarded(row[i]) for i in kept] for row in self.rows))


def csv_of(heading: Sequence[str], rows: Iterable[Sequence[Cell]]) -> bytes:
    """A CSV file in UTF-8 with LF line ends."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows([str(cell).lower() if isinstance(cell, bool) else exact(cell) for cell in row] for row in rows)
    return text.getvalue().encode()


def _guarded(cell: Cell) -> Cell:
    """A text that a spreadsheet would take for a formula, with an apostrophe in front."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def json_of(document: Any) -> bytes:
    """A JSON file, indented, its keys in the order given; NaN and infinities raise ValueError."""
    return (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def exact(cell: Cell) -> Cell:
    """A value as it stands in files: floats to nine digits, so that the last bits of another processor do not show."""
    return float(f"{cell:.{DIGITS}g}") if isinstance(cell, float) else cell


def shown(cell: Cell, kind: Kind) -> str:
    """A value as people read it."""
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, str):
        return cell
    if kind == "share":
        return f"{percent(cell)} %"
    if kind == "count":
        return f"{cell:,}"
    return number(cell)


def number(value: float) -> str:
    """Three digits: 0.645, 3.05e-8, 300,000."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    mantissa, sign, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if sign else text


def percent(share: float) -> str:
    """A share of 0-1 in per cent with two places, smaller ones with two digits; never 0 or 100 where it is neither."""
    value = 100 * share
    if 0 < abs(value) < 0.1:
        return number(float(f"{value:.2g}"))
    return ">99.99" if 99.995 <= value < 100 else f"{value:.2f}"
